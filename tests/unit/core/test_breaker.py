"""When somebody who did not answer is asked again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.breaker import FIRST_S, LONGEST_S, Breaker


@pytest.mark.parametrize(
    ("least_s", "pauses_s"),
    [
        (1.0, [2, 4, 8, 16, 32, 60, 60, 60]),
        (15.0, [15, 15, 15, 16, 32, 60, 60]),
        (300.0, [300, 300, 300]),
    ],
)
def test_each_question_without_an_answer_doubles_the_pause(least_s: float, pauses_s: list[float]) -> None:
    breaker, now = Breaker(least_s), 1000.0
    assert breaker.wait_s(now) == 0
    for pause_s in pauses_s:
        breaker.unanswered(now)
        assert breaker.wait_s(now) == pause_s
        assert breaker.wait_s(now + pause_s - 0.5) == 0.5
        now += pause_s
        assert breaker.wait_s(now) == 0


def test_no_pause_is_longer_than_polls_are_apart() -> None:
    breaker, now, pauses_s = Breaker(1.0, 10.0), 0.0, []
    for _ in range(6):
        breaker.unanswered(now)
        pauses_s.append(breaker.wait_s(now))
        now += pauses_s[-1]
    assert pauses_s == [2, 4, 8, 10, 10, 10]


def test_an_answer_ends_the_pause_and_the_next_one_is_short() -> None:
    breaker = Breaker(1.0)
    for _ in range(5):
        breaker.unanswered(0.0)
    breaker.answered()
    assert breaker.wait_s(0.0) == 0
    breaker.unanswered(0.0)
    assert breaker.wait_s(0.0) == FIRST_S


@given(st.integers(1, 100), st.lists(st.booleans(), max_size=40))
def test_however_it_answers_the_pause_has_bounds(least_s: int, answers: list[bool]) -> None:
    breaker, now = Breaker(least_s), 0.0
    for answer in answers:
        now += breaker.wait_s(now)
        if answer:
            breaker.answered()
            assert breaker.wait_s(now) == 0
        else:
            breaker.unanswered(now)
            assert max(FIRST_S, least_s) <= breaker.wait_s(now) <= max(LONGEST_S, least_s)
