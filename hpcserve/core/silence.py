"""When a client that hears nothing finds out whether another daemon has taken over.

Silence alone proves nothing: a call may take hours, and a frame minutes on a slow line. So it never ends a connection.
It is only the occasion to read the service record, and what ends the connection is a greater epoch there: then the
daemon at its other end has lost its lease, whatever it still does, and the new one is asked for what is outstanding.

Thousands of clients may wait, and the record is one file for all: so a read that has told nothing doubles the pause
before the next one, for as long as the connection lasts. The broker's pings come more often than the longest pause
ends, so who waits for hours on a daemon that lives soon reads no more.

A daemon that stands still keeps its connections, for its host's kernel answers for it: nothing else would tell.
"""

from __future__ import annotations

from hpcserve.types import Epoch

FIRST_S = 5.0
"""After so long without a message the record is read for the first time."""
LONGEST_S = 40.0
"""No pause is longer. Another daemon takes over when a lease has run out, and has to start: that takes half as long."""
LONGEST_GAP_S = 1.0
"""Of the time between two looks no more counts as silence: who looks may have stood still, not the daemon."""


class Silence:
    """How long nothing has been heard on one connection, nor read, while something was waited for.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._looked_at = now
        self._heard = 0
        self._silent_s = 0.0
        self._pause_s = FIRST_S

    def look(self, heard: int, now: float, *, waits: bool) -> bool:
        """Whether to read the record now. To be called several times a second while something is waited for.

        Args:
            heard: How many messages have come so far.
            now: Monotonic seconds.
            waits: Whether something is waited for.
        """
        gap_s, self._looked_at = now - self._looked_at, now
        if heard != self._heard or not waits:
            self._heard, self._silent_s = heard, 0.0
            return False
        self._silent_s += min(gap_s, LONGEST_GAP_S)
        if self._silent_s < self._pause_s:
            return False
        self._silent_s, self._pause_s = 0.0, min(2 * self._pause_s, LONGEST_S)
        return True


def is_succeeded(own: Epoch, published: Epoch) -> bool:
    """Whether the broker of epoch ``own`` has a successor, when the record names ``published``."""
    return published > own
