"""Restarts: pauses that grow and shrink, and an end to trying."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.restarts import GiveUp, Policy, RestartAt, Restarts

MOST = 6
POLICY = Policy(first_s=1, longest_s=5, stable_s=30, most=MOST, window_s=1000)


def run(restarts: Restarts, now: float, for_s: float) -> tuple[float, float]:
    """A run that begins at ``now``; the time of its end and the pause after it."""
    restarts.started(now)
    verdict = restarts.exited(now + for_s)
    assert isinstance(verdict, RestartAt)
    return now + for_s, verdict.at_s - (now + for_s)


def test_the_pause_doubles_up_to_the_longest() -> None:
    restarts, now, pauses = Restarts(POLICY), 0.0, []
    for _ in range(5):
        now, pause = run(restarts, now, 0.5)
        pauses.append(pause)
    assert pauses == [1, 2, 4, 5, 5]


@pytest.mark.parametrize(("for_s", "pause"), [(29.0, 4), (30.0, 1)])
def test_a_good_run_makes_the_pause_short_again(for_s: float, pause: float) -> None:
    restarts = Restarts(POLICY)
    now, _ = run(restarts, 0, 0)
    now, _ = run(restarts, now, 0)
    assert run(restarts, now, for_s)[1] == pause


def test_too_many_ends_within_the_window_are_the_last() -> None:
    restarts, now = Restarts(POLICY), 0.0
    for _ in range(5):
        now, _ = run(restarts, now, 100)
    restarts.started(now)
    assert restarts.exited(now + 100) == GiveUp("it ended 6 times within 1000 s")


def test_ends_that_are_long_past_do_not_count() -> None:
    restarts, now = Restarts(POLICY), 0.0
    for _ in range(50):
        now, _ = run(restarts, now, 250)


def test_without_a_most_it_is_always_started_again() -> None:
    restarts, now = Restarts(Policy(first_s=1, longest_s=5, most=None)), 0.0
    for _ in range(100):
        now, pause = run(restarts, now, 0)
    assert pause == 5


@given(st.lists(st.floats(0, 200), max_size=60))
def test_pauses_stay_in_bounds_and_giving_up_needs_enough_ends(runs: list[float]) -> None:
    restarts, now, ends = Restarts(POLICY), 0.0, []
    for for_s in runs:
        restarts.started(now)
        now += for_s
        ends.append(now)
        verdict = restarts.exited(now)
        recent = sum(end > now - POLICY.window_s for end in ends)
        if isinstance(verdict, GiveUp):
            assert recent >= MOST
            return
        assert recent < MOST
        assert POLICY.first_s <= round(verdict.at_s - now, 6) <= POLICY.longest_s
        now = verdict.at_s
