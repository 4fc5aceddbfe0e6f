"""Which logs, and which staged results, have been kept for long enough."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def over(written_s: Mapping[str, float], *, live: Collection[str], keep: int) -> list[str]:
    """The logs to be removed: all but those of who lives, and the last ``keep`` of the others.

    Args:
        written_s: When each log was written last, by its writer.
        live: The writers that may go on writing, whether they have a log or not.
        keep: How many logs of others are kept.
    """
    ended = sorted(written_s.keys() - set(live), key=lambda writer: (written_s[writer], writer))
    return ended[: max(0, len(ended) - keep)]


def staged_until_s(written_s: float, delivered_s: float | None, *, keep_s: float, keep_undelivered_s: float) -> float:
    """Until when a staged result is kept. One clock for all times.

    Args:
        written_s: When it was written.
        delivered_s: When its client had it; None: it has not.
        keep_s: How long one that was delivered is kept after that.
        keep_undelivered_s: How long one that was not is kept after it was written; infinity: until it is.
    """
    return written_s + keep_undelivered_s if delivered_s is None else delivered_s + keep_s
