"""Says how a replica ended: in words, in one word, and with the lines that show it. Pure.

What follows from it is decided by the controller.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcserve.bootstrap import UNFIT
from hpcserve.cluster.containers import NOT_FOUND, NOT_SIGNED, NOT_STARTED, refused
from hpcserve.cluster.processes import exit_in_words
from hpcserve.cluster.seam import LaunchEnd
from hpcserve.servable.environment import unfit
from hpcserve.servable.shortage import ends_in_shortage
from hpcserve.types import LossKind
from hpcserve.wire.launch import ReplicaSays

EVIDENCE_BYTES = 2048
_EVIDENCE_LINES = 8
_SIGKILL = -9


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the agent ended a replica; ``kind`` is empty when somebody had asked for it."""

    cause: str = ""
    kind: LossKind = ""

    def __bool__(self) -> bool:
        return bool(self.cause)


NOT_STOPPED = Stop()


@dataclass(frozen=True, slots=True)
class Outcome:
    """``state`` is failed (it never was ready) or exited; ``traceback`` may be its last output instead.

    ``lasting``: it failed, and the next one would fail in the same way there.
    """

    state: str
    cause: str
    traceback: str = ""
    kind: LossKind = ""
    evidence: str = ""
    lasting: bool = False


def outcome(
    end: LaunchEnd,
    said: ReplicaSays | None,
    *,
    stopped: Stop,
    given_up: str,
    last_lines: str,
    out_of_memory: bool,
    lasting: bool = False,
) -> Outcome:
    """How a replica's process ended.

    Args:
        end: Its exit code, and what its launcher said.
        said: What the replica reported of its setup, if anything.
        stopped: Why the agent ended it; false when it did not.
        given_up: Why its setup was given up; empty when it was not.
        last_lines: The end of its log.
        out_of_memory: Whether the kernel has killed a process here for want of memory.
        lasting: Whether what its setup was given up for stays.
    """
    if stopped and not given_up and not (said is not None and said.state == "failed"):
        return Outcome("exited", f"{stopped.cause} ({exit_in_words(end.exit_code)})", kind=stopped.kind)
    kind = _kind(end, said, last_lines, out_of_memory=out_of_memory)
    evidence = _last(end.evidence or _last_lines(last_lines))
    if given_up:
        return Outcome("failed", given_up, last_lines, kind if end.kind else "crashed", evidence, lasting)
    if said is not None and said.state == "failed":
        return Outcome("failed", said.cause, said.traceback or last_lines, kind, evidence, said.lasting)
    ended = _in_words(end, kind)
    if said is None:
        why = unfit(end.exit_code, last_lines) or refused(end.exit_code, last_lines)
        cause = why or f"{ended} before its setup was done"
        return Outcome("failed", cause, last_lines, kind, evidence, bool(why))
    return Outcome("exited", ended, last_lines, kind, evidence)


def hopeless(output: str, *, contained: bool) -> str:
    """Why a rank has ended before MPI knew of it, by whole lines of the group's output; empty: none has said that.

    The others wait for it in vain, and Hydra with them: no exit code will tell. What a container's runtime says
    counts only of ranks that are in containers.
    """
    whole = output.rpartition("\n")[0]
    why = unfit(UNFIT, whole)
    if why or not contained:
        return why
    return next(filter(None, (refused(code, whole) for code in (NOT_STARTED, NOT_SIGNED, NOT_FOUND))), "")


def _kind(end: LaunchEnd, said: ReplicaSays | None, last_lines: str, *, out_of_memory: bool) -> LossKind:
    if end.kind:
        return end.kind
    if end.exit_code == _SIGKILL:
        return "out of memory" if out_of_memory else "crashed"
    final = said.cause if said is not None and said.state == "failed" else _last_lines(last_lines)
    return "out of memory" if ends_in_shortage(final) else "crashed"


def _in_words(end: LaunchEnd, kind: LossKind) -> str:
    """The exit code, and what it leaves unsaid; srun has the exit code 0 for a failed node."""
    ended = exit_in_words(end.exit_code)
    match kind:
        case "node failed":
            return "its node failed"
        case "out of memory":
            return f"out of memory ({ended})"
        case "unreachable":
            return f"the scheduler did not answer the launcher ({ended})"
        case _:
            return ended


def _last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-_EVIDENCE_LINES:])


def _last(text: str) -> str:
    """The end of a text, as many whole characters of it as evidence may have bytes."""
    return text.encode()[-EVIDENCE_BYTES:].decode(errors="ignore")
