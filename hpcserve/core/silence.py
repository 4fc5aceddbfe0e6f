"""When a client that hears nothing finds out whether another daemon has taken over.

Silence alone proves nothing: a call may take hours, and a frame minutes on a slow line. So it never ends a connection.
It is only the occasion to read the service record, and what ends the connection is a greater epoch there: then the
daemon at its other end has lost its lease, whatever it still does, and the new one is asked for what is outstanding.

A daemon that stands still keeps its connections, for its host's kernel answers for it: nothing else would tell.
"""

from __future__ import annotations

from hpcserve.types import Epoch

FIRST_S = 5.0
"""After so long without a message the record is read."""
SHARE = 0.25
LONGEST_S = 30.0
"""Then again when the silence is longer by this share of it, by ``FIRST_S`` at least and ``LONGEST_S`` at most."""
LONGEST_GAP_S = 1.0
"""Of the time between two looks no more counts as silence: who looks may have stood still, not the daemon."""


class Silence:
    """How long nothing has been heard on one connection, while something was waited for.

    Args:
        now: Monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._looked_at = now
        self._heard = 0
        self._silent_s = 0.0
        self._read_at_s = FIRST_S

    def look(self, heard: int, now: float, *, waits: bool) -> bool:
        """Whether to read the record now. To be called several times a second while something is waited for.

        Args:
            heard: How many messages have come so far.
            now: Monotonic seconds.
            waits: Whether something is waited for.
        """
        gap_s, self._looked_at = now - self._looked_at, now
        if heard != self._heard or not waits:
            self._heard, self._silent_s, self._read_at_s = heard, 0.0, FIRST_S
            return False
        self._silent_s += min(gap_s, LONGEST_GAP_S)
        if self._silent_s < self._read_at_s:
            return False
        self._read_at_s = self._silent_s + min(max(FIRST_S, SHARE * self._silent_s), LONGEST_S)
        return True


def is_succeeded(own: Epoch, published: Epoch) -> bool:
    """Whether the broker of epoch ``own`` has a successor, when the record names ``published``."""
    return published > own
