"""Says in words how a replica ended. Pure; what follows from it is decided by the controller."""

from __future__ import annotations

from dataclasses import dataclass

from hpcserve.cluster.processes import exit_in_words
from hpcserve.wire.launch import ReplicaSays


@dataclass(frozen=True, slots=True)
class Outcome:
    """``state`` is failed (it never was ready) or exited; ``traceback`` may be its last output instead."""

    state: str
    cause: str
    traceback: str = ""


def outcome(exit_code: int, said: ReplicaSays | None, *, stopped: str, timed_out: str, last_lines: str) -> Outcome:
    """How a replica's process ended.

    Args:
        exit_code: Negative for a signal.
        said: What the replica reported of its setup, if anything.
        stopped: Why the agent ended it; empty when it did not.
        timed_out: Why its setup was given up; empty when it was not.
        last_lines: The end of its log.
    """
    ended = exit_in_words(exit_code)
    if timed_out:
        return Outcome("failed", timed_out, last_lines)
    if said is not None and said.state == "failed":
        return Outcome("failed", said.cause, said.traceback or last_lines)
    if stopped:
        return Outcome("exited", f"{stopped} ({ended})")
    if said is None:
        return Outcome("failed", f"{ended} before its setup was done", last_lines)
    return Outcome("exited", ended, last_lines)
