"""How fast a deployment is served, as its queue tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.pace import FRESH_S, WINDOW_S, WINDOWS, Pace

LOOK_S = 0.1


class Served:
    """Replicas that answer batches one after the other, and a pace that is looked at every tenth of a second."""

    def __init__(self, batch: int, batch_s: float, workers: int = 1) -> None:
        self.pace = Pace()
        self.batch, self.batch_s, self.workers = batch, batch_s, workers
        self.now = self.done = 0.0
        self.answered = 0

    def go(self, seconds: float, *, waits: bool = True) -> float | None:
        for _ in range(round(seconds / LOOK_S)):
            self.now += LOOK_S
            if waits:
                self.done += LOOK_S / self.batch_s * self.workers
                whole, self.done = int(self.done + 1e-9), self.done - int(self.done + 1e-9)
                self.answered += whole * self.batch
            self.pace.look(self.now, waits=waits, answered=self.answered, workers=self.workers)
        return self.pace.per_s


@pytest.mark.parametrize(("batch", "batch_s"), [(1, 0.01), (64, 0.2), (100, 0.7), (30, 3.0)])
def test_it_finds_the_rate_of_batches_of_any_length(batch: int, batch_s: float) -> None:
    served = Served(batch, batch_s)
    assert served.go(8 * max(batch_s, WINDOW_S)) == pytest.approx(batch / batch_s, rel=0.15)


def test_it_is_unknown_until_something_has_waited_for_a_while() -> None:
    served = Served(1, 0.01)
    assert served.pace.per_s is None
    assert served.go(0.4) is None
    assert served.go(0.3) == pytest.approx(100, rel=0.1)


def test_what_is_answered_without_a_queue_says_nothing() -> None:
    pace = Pace()
    for step in range(100):
        pace.look(step * LOOK_S, waits=step % 4 > 0, answered=step, workers=1)
    assert pace.per_s is None


def test_more_replicas_serve_more_at_once_and_none_serve_nobody_knows_how_fast() -> None:
    served = Served(10, 0.1)
    served.go(4)
    for workers, expected in ((4, 400), (2, 200)):
        served.workers = workers
        assert served.go(LOOK_S) == pytest.approx(expected, rel=0.1)
    served.workers = 0
    assert served.go(3, waits=False) is None
    served.workers = 1
    assert served.go(LOOK_S) == pytest.approx(100, rel=0.1)


def test_a_pause_and_an_odd_batch_do_not_move_it() -> None:
    served = Served(10, 0.1)
    served.go(5)
    for odd_s in (4.0, 0.002):
        served.batch_s = odd_s
        served.go(WINDOW_S)
        served.batch_s = 0.1
        assert served.go(1) == pytest.approx(100, rel=0.15)


def test_a_change_is_learned_within_its_windows() -> None:
    served = Served(10, 0.1)
    served.go(10)
    served.batch_s = 0.5
    assert served.go(WINDOWS * WINDOW_S + 1) == pytest.approx(20, rel=0.15)


def test_what_nothing_confirms_is_forgotten() -> None:
    served = Served(10, 0.1)
    assert served.go(2) is not None
    assert served.go(FRESH_S - 1, waits=False) is not None
    assert served.go(1.1, waits=False) is None


def test_what_takes_long_to_measure_is_not_forgotten_between_two_windows() -> None:
    served = Served(50, 70.0)
    served.go(150)
    for _ in range(40):
        assert served.go(10) is not None


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans(), st.integers(0, 3), st.floats(0.0, 20.0)), max_size=100))
def test_the_rate_is_positive_or_unknown_whatever_happens(steps: list[tuple[int, bool, int, float]]) -> None:
    pace, now, answered = Pace(), 0.0, 0
    for more, waits, workers, later_s in steps:
        now, answered = now + later_s, answered + more
        pace.look(now, waits=waits, answered=answered, workers=workers)
        assert pace.per_s is None or pace.per_s > 0
        assert workers or pace.per_s is None
