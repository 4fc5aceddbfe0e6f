"""Which of the scheduler's guesses when a pilot would start may be true. What follows from them, others decide."""

from __future__ import annotations

LONGEST_S = 30 * 86_400.0
"""A start that is expected later than this is none that anybody can rely on: schedulers say such things."""


def credible(starts_in_s: float | None) -> float | None:
    """The scheduler's guess for a pilot that waits, if there is one that may be true."""
    return starts_in_s if starts_in_s is not None and 0 <= starts_in_s <= LONGEST_S else None


def from_now_on(starts_in_s: float | None) -> float | None:
    """The scheduler's guess for what would be submitted now, if it may be true: one in the past is for now."""
    if starts_in_s is None or not abs(starts_in_s) <= LONGEST_S:
        return None
    return max(0.0, starts_in_s)
