"""Why a replica is gone: one cause for each, in words. Decides which it is; who tells it is the controller's business.

What an agent sees of its own replicas it says itself. What happens to a whole pilot only the scheduler knows, or the
agent's exit code; and of a replica that became unreachable the cause stays open until the scheduler has said what
became of its pilot.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcserve.types import DeploymentName, LossKind, PilotId, ReplicaId


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A replica that ended unasked.

    ``kind`` is empty while nobody knows; ``told``: its agent has written the cause into its log. ``drained``: it had
    finished what it ran, so only its place is lost.
    """

    replica: ReplicaId
    deployment: DeploymentName
    pilot: PilotId
    kind: LossKind
    cause: str
    told: bool = False
    drained: bool = False


def loss_in_words(kind: str, cause: str, *, drained: bool = False) -> str:
    """``KIND: CAUSE``, or the one that says all: Slurm's word for ``cancelled`` is CANCELLED."""
    if not cause or cause.casefold() == kind:
        said = kind
    else:
        said = cause if cause.casefold().startswith(kind) else f"{kind}: {cause}"
    return f"drained; {said}" if drained else said


JOB_ENDS: dict[str, LossKind] = {
    "walltime": "walltime",
    "preempted": "preempted",
    "node failed": "node failed",
    "out of memory": "out of memory",
    "cancelled": "cancelled",
}
"""What the way in which a job ended says of its replicas. Any other end is the agent's own: see :func:`pilot_loss`."""


def pilot_loss(end: str, exit_code: int | None, codes: dict[int, LossKind]) -> LossKind:
    """What became of the replicas of a pilot that has ended.

    Args:
        end: How its job ended, in the scheduler's word.
        exit_code: Of the agent, if the job ended with it.
        codes: What the agent's exit codes say.
    """
    if end in JOB_ENDS:
        return JOB_ENDS[end]
    return codes.get(exit_code, "crashed") if exit_code is not None else "crashed"
