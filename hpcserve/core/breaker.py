"""When somebody who did not answer is asked again: later and later, and as always once there was an answer.

Whoever is overloaded or down is not helped by being asked as often as before, and each question that gets no answer may
cost its whole time-out. Decides only when; what counts as an answer, the caller knows.
"""

from __future__ import annotations

FIRST_S = 2.0
"""The pause after the first question without an answer. Each further one doubles it."""
LONGEST_S = 60.0


class Breaker:
    """The pauses of one who is asked.

    Args:
        least_s: No pause is shorter: so often is asked where all is well.
        most_s: None is longer, unless ``least_s`` is: when an answer is there again, that is to be noticed.
    """

    def __init__(self, least_s: float, most_s: float = LONGEST_S) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._pause_s = FIRST_S
        self._not_before_s = float("-inf")

    def answered(self) -> None:
        """There was an answer, or somebody wants one now whatever was before."""
        self._pause_s = FIRST_S
        self._not_before_s = float("-inf")

    def unanswered(self, now: float) -> None:
        """A question has ended without an answer."""
        self._not_before_s = now + max(self._least_s, min(self._pause_s, self._most_s))
        self._pause_s = min(2 * self._pause_s, LONGEST_S)

    def wait_s(self, now: float) -> float:
        """So long nothing is to be asked; 0: now it may be."""
        return max(0.0, self._not_before_s - now)
