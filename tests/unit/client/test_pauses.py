"""The pauses between tries to connect."""

from __future__ import annotations

import pytest

from hpcserve.client.pauses import FIRST_S, FORGIVEN_S, Patience, Pauses
from hpcserve.errors import Overloaded, ServiceUnavailable

LONGEST_S = 4.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pauses_of(pauses: Pauses, clock: Clock, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        taken.append(pauses.after_failure_s())
        clock.now += taken[-1]
    return taken


def test_a_pause_is_twice_the_one_before_up_to_the_longest_and_some_of_it_is_chance() -> None:
    clock = Clock()
    taken = pauses_of(Pauses(LONGEST_S, clock), clock, 20)
    for number, pause_s in enumerate(taken):
        whole_s = min(FIRST_S * 2**number, LONGEST_S)
        assert whole_s / 2 <= pause_s <= whole_s
    assert len(set(taken[10:])) > 1


def test_a_failure_after_a_long_time_counts_as_the_first() -> None:
    clock = Clock()
    pauses = Pauses(LONGEST_S, clock)
    pauses_of(pauses, clock, 20)
    clock.now += FORGIVEN_S
    assert pauses.after_failure_s() <= FIRST_S


def test_what_the_service_says_may_be_over_soon_is_tried_again_for_a_time() -> None:
    clock = Clock()
    patience = Patience(5.0, clock)
    soon, down = ServiceUnavailable("busy", retry_after_s=2.0), ServiceUnavailable("no daemon answers")
    for each in (soon, Overloaded("too often", retry_after_s=2.0)):
        assert patience.pause_s(each) == 2.0
        clock.now += 2.0
    for error in (soon, down):
        with pytest.raises(ServiceUnavailable, match=error.message):
            patience.pause_s(error)
    with pytest.raises(ServiceUnavailable, match="no daemon"):
        Patience(5.0, clock).pause_s(down)
