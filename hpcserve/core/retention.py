"""Which logs have been kept for long enough."""

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
