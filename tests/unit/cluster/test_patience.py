"""The parts of a scheduler that gave no answer are left alone, each by itself, until somebody waits for all of them."""

from __future__ import annotations

import asyncio

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
    with pytest.raises(SchedulerError, match="it does not answer; so it was 0 s ago"):
        one.check()


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
