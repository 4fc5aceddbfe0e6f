"""The parts of a scheduler that gave no answer are left alone, each by itself, until somebody waits for all of them."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime, timedelta

import pytest

from hpcserve.cluster.patience import Parts, Patience
from hpcserve.cluster.seam import Answered
from hpcserve.cluster.slurm_jobs import NoAccounting
from hpcserve.errors import JobRefused, NoRoom, SchedulerError


def parts() -> Parts:
    return Parts(least_s=10.0, most_s=20.0, clock=lambda: 0.0)


def ask(part: Patience, error: SchedulerError) -> None:
    async def question() -> None:
        raise error

    with pytest.raises(type(error)):
        asyncio.run(part.ask(question))


def test_one_that_does_not_answer_is_left_alone_and_no_other() -> None:
    made = parts()
    one, other = made.part(), made.part()
    ask(one, SchedulerError("it does not answer"))
    assert (one.is_free, other.is_free) == (False, True)
    with pytest.raises(SchedulerError, match=r"it does not answer; so it was at [\d:]{8}, asked again at [\d:]{8}$"):
        one.check()


def test_what_is_told_of_one_that_is_left_alone_stays_true_however_late_it_is_shown() -> None:
    """Its times are those of the host's clock, which tell the same at each look."""
    now_s = 0.0
    part = Parts(least_s=40.0, most_s=40.0, clock=lambda: now_s).part()
    before = datetime.now().astimezone()
    ask(part, SchedulerError("it does not answer"))
    for now_s in (0.0, 30.0):
        with pytest.raises(SchedulerError) as caught:
            part.check()
        was, again = re.findall(r"\d\d:\d\d:\d\d", caught.value.message)
        for told, in_s in ((was, -now_s), (again, 40.0 - now_s)):
            late_s = _seconds(told) - _seconds((before + timedelta(seconds=in_s)).strftime("%H:%M:%S"))
            assert -1 <= (late_s + 43_200) % 86_400 - 43_200 <= 60


def _seconds(told: str) -> int:
    hours, minutes, seconds = map(int, told.split(":"))
    return 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize("error", [JobRefused("no"), NoRoom("later"), Answered("none"), NoAccounting("none")])
def test_what_somebody_said_who_is_there_is_an_answer(error: SchedulerError) -> None:
    part = parts().part()
    ask(part, error)
    assert part.is_free


def test_all_of_them_are_asked_again_when_somebody_waits() -> None:
    made = parts()
    each = [made.part() for _ in range(3)]
    for part in each:
        ask(part, SchedulerError("it does not answer"))
    made.end()
    assert [part.is_free for part in each] == [True] * 3
