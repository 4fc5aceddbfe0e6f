"""When a pilot's successor is submitted, and when its own replicas get no more work. Learned from what was measured.

The end of a pilot casts two shadows. In the last ``drain_s`` nothing is begun that may not be finished: so long as the
longest request of late has taken, with room, before the agent itself ends the replicas. ``lead_s`` before the end a
successor is submitted: time to wait in the queue, to set the replicas up, and then to drain.
"""

from __future__ import annotations

from collections import deque
from statistics import median

KEPT = 8
"""The longest of so many waits and setups, the last ones, is expected the next time."""
ROOM = 1.5
"""An expected wait is taken so many times."""
SHARE = 0.5
"""Of its walltime a pilot serves at least so much undisturbed by its end."""


class Succession:
    """What is known of how long pilots wait and replicas take to be ready.

    Args:
        walltime_s: Of each pilot that has no other.
        margin_s: So long before its end an agent ends its replicas.
        first_wait_s: The wait in the queue that is expected before one was measured.
    """

    def __init__(self, *, walltime_s: float, margin_s: float, first_wait_s: float) -> None:
        self._walltime_s = walltime_s
        self.margin_s = margin_s
        self._first_wait_s = first_wait_s
        self._waits: deque[float] = deque(maxlen=KEPT)
        self._setups: deque[float] = deque(maxlen=KEPT)

    def waited(self, wait_s: float) -> None:
        """A pilot's agent reported so long after the pilot was submitted."""
        self._waits.append(wait_s)

    def set_up(self, setup_s: float) -> None:
        """A replica was ready so long after it was ordered."""
        self._setups.append(setup_s)

    @property
    def expected_wait_s(self) -> float:
        """What a pilot waits in the queue as a rule."""
        return median(self._waits) if self._waits else self._first_wait_s

    def drain_s(self, longest_s: float, walltime_s: float | None = None) -> float:
        """So long before its end a pilot begins to drain; never before its successor may be expected to be ready.

        Should requests take too long for that, the broker still gives out none that would not be finished.

        Args:
            longest_s: The longest that a request of its replicas has taken of late, from its dispatch to its answer.
            walltime_s: Its own.
        """
        most_s = self._most_s(walltime_s)
        left_s = most_s - self.margin_s - self._hand_over_s
        return min(most_s, self.margin_s + max(0.0, min(ROOM * longest_s, left_s)))

    def lead_s(self, longest_s: float, walltime_s: float | None = None) -> float:
        """So long before its end a pilot's successor is submitted; the arguments are those of :meth:`drain_s`."""
        return min(self._most_s(walltime_s), self._hand_over_s + self.drain_s(longest_s, walltime_s))

    def _most_s(self, walltime_s: float | None) -> float:
        return SHARE * (self._walltime_s if walltime_s is None else walltime_s)

    @property
    def _hand_over_s(self) -> float:
        """From a pilot's submission until its replicas are ready."""
        wait_s = ROOM * max(self._waits) if self._waits else self._first_wait_s
        return wait_s + ROOM * max(self._setups, default=0.0)
