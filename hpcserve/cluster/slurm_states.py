"""What each state and flag of Slurm means: the table, and how a job's words are read together. Decides nothing else.

Source: squeue(1), JOB STATE CODES, of 22.05 and 25.11; ``enum job_states`` and the ``JOB_*`` flags in ``slurm.h``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpcserve.cluster.seam import JobEnd, JobPhase


@dataclass(frozen=True, slots=True)
class Meaning:
    """A phase, with the end that belongs to ``ended``, and in words what the state says that the phase does not."""

    phase: JobPhase
    end: JobEnd | None = None
    words: str = ""


# A job has one of these.
BASE = {
    "PENDING": Meaning("queued"),
    "RUNNING": Meaning("running"),
    "SUSPENDED": Meaning("suspended", words="its processes are stopped and its nodes are given to others"),
    "COMPLETED": Meaning("ended", "completed"),
    "CANCELLED": Meaning("ended", "cancelled"),
    "FAILED": Meaning("ended", "failed"),
    "TIMEOUT": Meaning("ended", "walltime", "its walltime is used up"),
    "NODE_FAIL": Meaning("ended", "node failed", "a node of it failed"),
    "PREEMPTED": Meaning("ended", "preempted", "its nodes were given to a job that may preempt it"),
    "BOOT_FAIL": Meaning("ended", "node failed", "a node of it did not boot"),
    "DEADLINE": Meaning("ended", "never started", "it could not have ended before its deadline any more"),
    "OUT_OF_MEMORY": Meaning("ended", "out of memory", "it used more memory than it had asked for"),
}

# A job may have several of these beside it. In text, Slurm prints one of them in the place of the base state. They
# stand in the order in which they decide.
FLAGS = {
    # What follows is known only when it is over: an end, or the queue again. Until then the nodes are not free either.
    "COMPLETING": Meaning("running", words="its processes are being ended, and Slurm cleans up behind it"),
    "STAGE_OUT": Meaning("running", words="its files are being copied from the burst buffer"),
    "REVOKED": Meaning("ended", "never started", "another cluster of the federation runs it"),
    "REQUEUE_HOLD": Meaning("queued", words="put back into the queue and held; `scontrol release` lets it go"),
    "SPECIAL_EXIT": Meaning("queued", words="put back into the queue and held; `scontrol release` lets it go"),
    "RESV_DEL_HOLD": Meaning("queued", words="held, since its reservation was deleted"),
    "REQUEUED": Meaning("queued", words="put back into the queue"),
    "REQUEUE_FED": Meaning("queued", words="put back into the queue of the federation"),
    # It has its nodes, but no process and, as its time limit counts from the end of this, no walltime passes.
    "CONFIGURING": Meaning("queued", words="its nodes are booted or prepared"),
    "POWER_UP_NODE": Meaning("queued", words="its nodes are switched on"),
    "STOPPED": Meaning("suspended", words="its processes are stopped; it keeps its nodes"),
    "RESIZING": Meaning("running", words="it is being made larger or smaller"),
    "SIGNALING": Meaning("running"),
}

HELD = frozenset({"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
"""With these a job does not start until somebody lets it go."""

# These tell of what Slurm does for itself; the job is in its base state.
ASIDES = frozenset({"LAUNCH_FAILED", "RECONFIG_FAIL", "UPDATE_DB", "EXPEDITING"})


def meaning(state: str, flags: Iterable[str]) -> Meaning:
    """What the state and the flags of a job say together.

    A word that is not known here never ends a job: a job that has not ended by its other words is in the phase that
    these say, any other is in phase ``unknown``.
    """
    words = {state, *flags} - ASIDES
    decisive = [*(found for word, found in FLAGS.items() if word in words)]
    decisive += [found for word, found in BASE.items() if word in words]
    strange = sorted(words - FLAGS.keys() - BASE.keys())
    if strange and (not decisive or decisive[0].phase == "ended"):
        return Meaning("unknown", words=f"Slurm says {', '.join(strange)}, a state that hpcserve does not know")
    return decisive[0] if decisive else Meaning("unknown", words=f"Slurm says no state but {state}")
