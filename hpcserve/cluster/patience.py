"""Leaves a part of a batch scheduler alone that has not answered, as :mod:`hpcserve.core.breaker` says for how long.

Meanwhile the answer is at once the error that came last, with times of day, since it may be shown much later. Decides
what counts as an answer: also that a job is refused was said by somebody who is there, and so is each error that is
:class:`~hpcserve.cluster.seam.Answered`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from hpcserve.cluster.seam import Answered
from hpcserve.core.breaker import Breaker
from hpcserve.errors import JobRefused, NoRoom, SchedulerError

T = TypeVar("T")


class Parts:
    """The parts of a scheduler that are left alone each by itself, and looked at anew together.

    Args:
        least_s: One is left alone for no shorter a time at first.
        most_s: And for no longer.
        clock: Seconds, on a clock that is never set back.
    """

    def __init__(self, *, least_s: float, most_s: float, clock: Callable[[], float]) -> None:
        self._make = partial(Patience, least_s=least_s, most_s=most_s, clock=clock)
        self._made: list[Patience] = []

    def part(self) -> Patience:
        """One more."""
        self._made.append(self._make())
        return self._made[-1]

    def end(self) -> None:
        """Somebody waits for an answer: the next question to each of them is asked."""
        for each in self._made:
            each.end()


class Patience:
    """One part of the scheduler, such as its accounting.

    Args:
        least_s: It is left alone for no shorter a time.
        most_s: It is left alone for no longer a time, and for a minute at most.
        clock: Seconds, on a clock that is never set back.
    """

    def __init__(self, *, least_s: float, most_s: float, clock: Callable[[], float]) -> None:
        self._breaker = Breaker(least_s, most_s)
        self._clock = clock
        self._last, self._last_s = "", 0.0

    @property
    def is_free(self) -> bool:
        """Whether it may be asked now."""
        return not self._breaker.wait_s(self._clock())

    def check(self) -> None:
        """To be called before anything else is asked that it has to answer.

        Raises:
            SchedulerError: It is left alone now.
        """
        now_s = self._clock()
        wait_s = self._breaker.wait_s(now_s)
        if wait_s:
            was, again = _time_of_day(self._last_s - now_s), _time_of_day(math.ceil(wait_s))
            raise SchedulerError(f"{self._last}; so it was at {was}, asked again at {again}", retry_after_s=wait_s)

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question.

        Raises:
            SchedulerError: That of the question, or it was not asked.
        """
        self.check()
        try:
            answer = await question()
        except (JobRefused, NoRoom, Answered):
            self._breaker.answered()
            raise
        except SchedulerError as error:
            self._breaker.unanswered(self._clock())
            self._last, self._last_s = error.message, self._clock()
            raise
        self._breaker.answered()
        return answer

    def end(self) -> None:
        """Somebody waits for an answer: the next question is asked."""
        self._breaker.answered()


def _time_of_day(in_s: float) -> str:
    """The time of this host in so many seconds."""
    return (datetime.now().astimezone() + timedelta(seconds=in_s)).strftime("%H:%M:%S")
