"""When the scheduler is asked again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.polling import LONGEST_SILENT_S, PollPace

LEAST_S, MOST_S = 10.0, 120.0


def pace(least_s: float = LEAST_S, most_s: float = MOST_S) -> PollPace:
    return PollPace(lambda: least_s, most_s)


def pauses(pace: PollPace, *polls: bool, now: float = 1000.0, answered: bool = True) -> list[float]:
    """After each poll, which brings news or does not, how long it is to the next."""
    found = []
    for news in polls:
        pace.polled(now, news=news, answered=answered)
        found.append(pace.due_s() - now)
        now = pace.due_s()
    return found


def test_the_first_poll_is_due_at_once() -> None:
    assert pace().due_s() == float("-inf")


def test_without_news_each_pause_is_twice_as_long_up_to_the_longest() -> None:
    assert pauses(pace(), True, *[False] * 6) == [10, 20, 40, 80, 120, 120, 120]


def test_news_make_it_short_again() -> None:
    assert pauses(pace(), *[False] * 5, True, False) == [20, 40, 80, 120, 120, 10, 20]


def test_whoever_stirs_it_has_the_next_poll_soon_but_not_sooner_than_the_site_allows() -> None:
    slow = pace()
    pauses(slow, *[False] * 6, now=0.0)
    last_s = slow.due_s() - MOST_S
    for _ in range(2):
        slow.stir()
        assert slow.due_s() == last_s + LEAST_S
    assert pauses(slow, False, False, False) == [10, 20, 40], "what was begun may be over a little later"


def test_a_silent_scheduler_is_asked_once_a_minute_at_least() -> None:
    assert pauses(pace(), True, *[False] * 5, answered=False) == [10, 20, 40, 60, 60, 60]
    assert max(pauses(pace(most_s=30.0), *[False] * 5, answered=False)) == 30
    assert LONGEST_SILENT_S == 60


def test_one_that_is_left_alone_is_asked_when_that_is_over() -> None:
    quiet = pace()
    quiet.polled(100.0, news=True, answered=False)
    quiet.put_off(110.0, 35.0)
    assert quiet.due_s() == 145.0
    quiet.polled(145.0, news=True)
    assert quiet.due_s() == 155.0


@pytest.mark.parametrize(
    ("expected_s", "due_s"),
    [
        ([], 120.0),
        ([90.0, 100.0], 90.0),
        ([60.0], 60.0),
        ([59.0, 1.0, -30.0], 120.0),  # a guess that creeps costs nothing
        ([500.0], 120.0),
    ],
)
def test_a_poll_is_not_put_off_beyond_what_is_expected(expected_s: list[float], due_s: float) -> None:
    slow = pace()
    for _ in range(6):
        slow.polled(0.0, news=False)
    assert slow.due_s(expected_s) == due_s


def test_a_scheduler_of_ones_own_is_asked_as_often_as_one_likes() -> None:
    often = [0.1]
    own = PollPace(lambda: often[0], 0.0)
    assert pauses(own, False, False) == pytest.approx([0.1, 0.1])
    often[0] = 1.0
    own.polled(50.0, news=False)
    assert own.due_s() == 51.0


@given(
    least_s=st.integers(1, 60),
    more_s=st.integers(0, 300),
    events=st.lists(
        st.sampled_from(["news", "quiet", "silent", "stir", "put off"]) | st.integers(-100, 500), max_size=60
    ),
)
def test_whatever_happens_pauses_keep_their_bounds(least_s: int, more_s: int, events: list[str | int]) -> None:
    most_s = least_s + more_s
    tried, now, last_s, put_off_s = pace(least_s, most_s), 0.0, 0.0, 0.0
    tried.polled(now, news=True)
    for event in events:
        expected_s = [now + event] if isinstance(event, int) else []
        if event == "stir":
            tried.stir()
        elif event == "put off":
            tried.put_off(now, 7.0)
            put_off_s = 7.0
        else:
            now = tried.due_s(expected_s)
            assert least_s <= now - last_s <= most_s + put_off_s
            tried.polled(now, news=event == "news", answered=event != "silent")
            last_s, put_off_s = now, 0.0
