"""When the batch scheduler is asked about our jobs again: soon after news, and later and later while there is none.

The scheduler serves everybody, so no question is asked that need not be. The pause doubles with each poll that tells
nothing new, so what happens some time after the last news is seen about as much later, and never later than the longest
pause. What cannot wait so long tells of itself: an agent's connection ends with its pilot.

A scheduler that does not answer is asked again later and later, too, but at least once a minute: when it is back, that
is to be seen soon. Decides only when; what is news, the caller knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

LONGEST_SILENT_S = 60.0
"""The longest pause while there is no answer."""
WORTH = 0.5
"""What is expected sooner than after this part of a pause gets no poll of its own: guesses of a start creep."""


class PollPace:
    """The pauses between polls.

    Args:
        least_s: The shortest pause of this moment, in seconds: so often the site allows to ask.
        most_s: The longest one. If it is shorter than ``least_s``, all pauses are ``least_s``.
    """

    def __init__(self, least_s: Callable[[], float], most_s: float) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._pause_s = 0.0
        self._is_stirred = False
        self._polled_s = float("-inf")
        self._not_before_s = float("-inf")

    def stir(self) -> None:
        """Something happened that the scheduler may tell more of, now or a little later."""
        self._pause_s = 0.0
        self._is_stirred = True
        self._not_before_s = float("-inf")

    def polled(self, now: float, *, news: bool, answered: bool = True) -> None:
        """The scheduler was asked.

        Args:
            now: Monotonic seconds.
            news: It tells of a pilot what it did not tell before.
            answered: It gave an answer.
        """
        longest_s = self._most_s if answered else min(self._most_s, LONGEST_SILENT_S)
        self._pause_s = 0.0 if news or self._is_stirred else min(longest_s, 2 * self.pause_s)
        self._is_stirred = False
        self._polled_s = now
        self._not_before_s = float("-inf")

    def put_off(self, now: float, for_s: float) -> None:
        """Nobody was asked, since the scheduler is left alone for so long."""
        self._not_before_s = now + for_s

    @property
    def pause_s(self) -> float:
        """From one poll to the next, where nothing is expected between them."""
        return max(self._pause_s, self.least_s)

    @property
    def least_s(self) -> float:
        """From one poll to the next at least."""
        return self._least_s()

    def due_s(self, expected_s: Iterable[float] = ()) -> float:
        """When to ask next, in monotonic seconds.

        Args:
            expected_s: When something may happen that the scheduler will tell of: starts and ends of pilots.
        """
        due_s = self._polled_s + self.pause_s
        worth_s = self._polled_s + max(self.least_s, WORTH * self.pause_s)
        soonest_s = min((each_s for each_s in expected_s if worth_s <= each_s < due_s), default=due_s)
        return max(soonest_s, self._not_before_s)
