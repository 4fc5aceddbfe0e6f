"""What is to become of a deployment, and why, in words. Decides nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from hpcserve.core.rollout import FleetDeployment
from hpcserve.core.spans import counted


@dataclass(frozen=True, kw_only=True)
class Queued:
    """A pilot that waits in the queue, or to be submitted. ``starts_in_s``: for so long, as the scheduler guesses."""

    slots: int
    starts_in_s: float | None
    submitted: bool = True


def awaited(queued: Iterable[Queued], lacking: int) -> list[Queued]:
    """The pilots that replicas of so many slots wait for: those that start first, until there is room for all."""
    found: list[Queued] = []
    # Of those that start at the same time, or nobody knows when, the larger ones: so few as can be are promised.
    for each in sorted(queued, key=lambda each: (_or_never(each.starts_in_s), -each.slots)):
        if lacking <= 0:
            break
        found.append(each)
        lacking -= each.slots
    return found


def soonest_s(queued: Iterable[Queued]) -> float | None:
    """When the first of them starts, if anybody can tell."""
    return min((each.starts_in_s for each in queued if each.starts_in_s is not None), default=None)


def _or_never(starts_in_s: float | None) -> float:
    return math.inf if starts_in_s is None else starts_in_s


WAITS = ((" requests wait", " requests waited"), (" request waits", " request waited"))
"""What a scaler says of requests while they wait, and what is to be said afterwards."""


def reason_in_words(known: FleetDeployment, *, waiting: int | None = None) -> str:
    """Why a deployment is to have as many replicas as it is, as a clause after "because".

    Args:
        known: The deployment.
        waiting: So many of its requests wait now; None: as many as when that was decided.
    """
    if known.scaler is None:
        return "that is what was asked for"
    if known.scaler.target is None:
        return "its demand is not measured yet"
    because = known.scaler.target.because
    # What decides is the peak of the last while, which may be over.
    for now, then in WAITS if waiting == 0 else ():
        because = because.replace(now, then, 1)
    return because


def plan_in_words(
    known: FleetDeployment,
    *,
    here: int,
    queued: int,
    sharing: int,
    starts_at: str,
    room: str = "",
    unsubmitted: int = 0,
    waiting: int | None = None,
) -> str:
    """The plan for a deployment.

    Args:
        known: The deployment.
        here: So many replicas it has.
        queued: So many pilots wait in the queue that those which it lacks wait for, and those that others lack.
        sharing: So many other deployments lack some.
        starts_at: When the first of these pilots is expected to start, as a time of day; empty if nobody can tell.
        room: Why it is to have fewer than it wants; empty if it is to have all.
        unsubmitted: Of these pilots, so many are not in the scheduler's queue yet.
        waiting: So many of its requests wait now; None: as many as when its number of replicas was decided.
    """
    because = reason_in_words(known, waiting=waiting)
    if here >= known.replicas and known.scaler is None and not room:
        return "paused" if known.is_paused else f"{counted(known.replicas, 'replica')}, fixed"
    if room:
        because = f"{because}; {room}"
    count = counted(known.due, "replica") if known.due else "no replica"
    if here >= known.due:
        return f"{count}, because {because}"
    if not queued:
        return f"{count}, of which {known.due - here} not yet there, because {because}"
    guess = f", est. start {starts_at}" if starts_at else ""
    shared = f", shared with {counted(sharing, 'other deployment')}" if sharing else ""
    coming = _coming(queued - unsubmitted, unsubmitted)
    return f"{coming}{shared}{guess}, for {known.due - here} of {count}, because {because}"


def _coming(queued: int, unsubmitted: int) -> str:
    """``2 pilots queued``, ``1 pilot to be submitted``, or both."""
    told = [f"{counted(queued, 'pilot')} queued"] if queued else []
    if unsubmitted:
        told.append(f"{unsubmitted if queued else counted(unsubmitted, 'pilot')} to be submitted")
    return " and ".join(told)
