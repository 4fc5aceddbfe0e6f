"""What is to become of a deployment, and why, in words. Decides nothing."""

from __future__ import annotations

from hpcserve.core.rollout import FleetDeployment
from hpcserve.core.spans import counted

LONGEST_S = 30 * 86_400.0
"""A start that is expected later than this is none that anybody can rely on: schedulers say such things."""


def credible(starts_in_s: float | None) -> float | None:
    """The scheduler's guess, if there is one that may be true."""
    return starts_in_s if starts_in_s is not None and 0 <= starts_in_s <= LONGEST_S else None


def plan_in_words(known: FleetDeployment, *, here: int, queued: int, starts_at: str) -> str:
    """The plan for a deployment.

    Args:
        known: The deployment.
        here: So many replicas it has.
        queued: So many pilots wait in the queue.
        starts_at: When the first of them is expected to start, as a time of day; empty if nobody can tell.
    """
    target = known.scaler.target if known.scaler is not None else None
    because = "that is what was asked for" if known.scaler is None else "its demand is not measured yet"
    if target is not None:
        because = target.because
    count = counted(known.replicas, "replica") if known.replicas else "no replica"
    if here >= known.replicas:
        return f"{count}, because {because}"
    if not queued:
        return f"{count}, of which {known.replicas - here} not yet there, because {because}"
    guess = f", est. start {starts_at}" if starts_at else ""
    return f"{counted(queued, 'pilot')} queued{guess}, for {known.replicas - here} of {count}, because {because}"
