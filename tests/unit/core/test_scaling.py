"""How many replicas the demand needs: what one look says, what a load that comes and goes does, and its ends."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.scaling import BUSY, HORIZON_S, Demand, Scale, Scaler

LOOK_S = 5.0
SCALE = Scale(least=0, most=100, hot=0, idle_s=300.0)
NOTHING = Demand(came=0, queued=0, running=0, workers=0)


class Load:
    """A deployment whose demand a test sets, looked at every few seconds."""

    def __init__(self, scale: Scale = SCALE, wait_s: float = 0.0) -> None:
        self.scaler = Scaler(scale)
        self.now = 1000.0
        self.wait_s = wait_s
        self.room = 0
        self.came = 0

    def look(self, *, per_s: float = 0.0, there: int = 0, for_s: float = LOOK_S, **counts: float) -> int:
        """The replicas that are wanted after a load has lasted for so long."""
        until = self.now + for_s
        while self.now < until:
            self.now += LOOK_S
            self.came += round(per_s * LOOK_S)
            demand = replace(NOTHING, came=self.came, **counts)  # type: ignore[arg-type]
            target = self.scaler.observe(demand, there=there, room=self.room, wait_s=self.wait_s, now=self.now)
        return target.replicas

    @property
    def because(self) -> str:
        assert self.scaler.target is not None
        return self.scaler.target.because


def test_nothing_is_wanted_while_nobody_asks() -> None:
    load = Load()
    assert load.look(for_s=600) == 0
    assert load.because == "that is its minimum"


def test_the_first_request_that_waits_wants_a_replica_at_once() -> None:
    load = Load()
    load.look()
    assert load.look(per_s=0.2, queued=1) == 1
    assert load.because == "1 request waits"


def test_a_steady_load_gets_the_replicas_that_are_at_work_for_four_fifths_of_their_time() -> None:
    load = Load()
    for running in (4, 16) * 60:  # they do not come evenly
        wanted = load.look(per_s=20, running=running, workers=13, service_s=0.5)
    assert wanted == round(20 * 0.5 / BUSY + 0.4)
    assert "20 requests come in a second, of 0.5 s each" in load.because


def test_what_waits_is_worked_off_within_the_horizon() -> None:
    load = Load()
    assert load.look(queued=1200, service_s=1.0) == 1200 / HORIZON_S
    assert load.because == "1,200 requests wait"


@pytest.mark.parametrize("per_s", [0, 4])
def test_a_longer_wait_in_the_queue_is_no_reason_to_ask_for_more(per_s: int) -> None:
    quick, slow = Load(), Load(wait_s=600)
    steady = 0 if not per_s else round(per_s / BUSY)
    for load in (quick, slow):
        load.look(per_s=per_s, for_s=600, running=steady, workers=steady, service_s=1.0)
    assert quick.look(per_s=per_s, queued=1200 - steady, running=steady, workers=steady) == steady + 20
    assert slow.look(per_s=per_s, queued=1200 - steady, running=steady, workers=steady) == steady + 2


def test_the_room_of_pilots_that_run_is_used_at_once_however_long_others_wait_in_the_queue() -> None:
    load = Load(wait_s=600)
    load.room = 16
    assert load.look(queued=1200, service_s=1.0) == 16
    load.room = 64
    assert load.look(queued=1200) == 20
    assert load.because == "1,200 requests wait"


def test_while_nobody_knows_how_long_a_request_takes_what_waits_gets_the_room_that_there_is() -> None:
    load = Load()
    assert load.look(queued=1200) == 1
    load.room = 16
    assert load.look(queued=1200) == 16
    assert load.look(queued=5, for_s=305) == 5


def test_nothing_is_given_up_while_what_waits_would_take_longer_than_a_minute() -> None:
    load = Load(wait_s=600)
    load.look(per_s=20, for_s=60, queued=1200, service_s=1.0)
    wanted = load.scaler.target
    assert load.look(queued=1200, for_s=600) == (wanted.replicas if wanted else None)
    assert load.because == "1,200 requests wait"
    assert load.look(queued=241, running=4, workers=4, for_s=600) == (wanted.replicas if wanted else None)
    assert load.look(queued=239, running=4, workers=4, for_s=305) < 4


def test_those_who_gave_up_waiting_need_no_replica() -> None:
    load = Load(wait_s=600)
    assert load.look(queued=6000, service_s=1.0) == 10
    assert load.look(queued=2, for_s=305) == 2


def test_without_a_queue_the_replicas_at_work_are_counted() -> None:
    load = Load()
    for running in (2, 14) * 60:
        wanted = load.look(per_s=40, running=running, workers=16)
    assert 8 / BUSY <= wanted <= 8 / BUSY + 1


def test_it_is_never_more_than_the_maximum_and_says_what_would_be_needed() -> None:
    load = Load(replace(SCALE, most=4))
    assert load.look(queued=6000, service_s=1.0) == 4
    assert load.because == "6,000 requests wait; 100 would be needed, and 4 is its maximum"


def test_hot_replicas_are_kept_while_it_is_in_use_and_idle_s_after_that() -> None:
    load = Load(replace(SCALE, least=1, hot=3, idle_s=100.0))
    assert load.look(for_s=200) == 1
    assert load.look(per_s=0.2) == 3
    assert load.because == "it is in use"
    assert load.look(for_s=95) == 3
    assert load.look(for_s=10) == 1
    assert load.because == "nobody asked for 1 min 40 s"


@pytest.mark.parametrize(("queued", "running"), [(1, 0), (0, 1), (1, 1), (3, 3)])
def test_what_waits_or_runs_is_use_however_much_of_each_there_is(queued: int, running: int) -> None:
    load = Load(replace(SCALE, idle_s=60.0))
    load.look(per_s=0.2, queued=1)
    assert load.look(for_s=3600, queued=queued, running=running, workers=running, there=running) >= 1
    assert load.look(for_s=60) == 0


def test_a_request_that_runs_for_long_is_use() -> None:
    load = Load(replace(SCALE, idle_s=60.0))
    load.look(per_s=0.2, queued=1)
    assert load.look(for_s=3600, running=1, workers=1, there=1) == 1
    assert load.look(for_s=60) == 0


def test_a_load_that_comes_and_goes_does_not_make_replicas_come_and_go() -> None:
    load = Load()
    load.look(per_s=20, for_s=600, running=10, workers=13, service_s=0.5)
    wanted = set()
    for _ in range(20):
        wanted.add(load.look(per_s=0, for_s=100))
        wanted.add(load.look(per_s=20, for_s=100, running=10, workers=13))
    assert min(wanted) >= 10
    assert load.look(for_s=305) == 0


def test_a_broker_that_counts_anew_is_no_flood() -> None:
    load = Load()
    load.look(per_s=1, for_s=3600, running=1, workers=2, service_s=0.5)
    load.came = 3
    assert load.look(per_s=1, for_s=60, running=1, workers=2) <= 2


def test_a_new_controller_keeps_what_it_finds_until_idle_s_has_passed() -> None:
    load = Load()
    assert load.look(there=5, workers=5) == 5
    assert load.because == "it was in use"
    assert load.look(there=5, workers=5, for_s=290) == 5
    assert load.look(there=5, workers=5, for_s=20) == 0


def test_the_time_of_a_request_is_remembered_while_nothing_waits() -> None:
    load = Load()
    load.look(queued=100, service_s=2.0)
    load.look(for_s=400)
    assert load.look(queued=600) == 20


@given(st.integers(0, 2**32))
def test_whatever_comes_the_number_is_allowed(seed: int) -> None:
    chance = random.Random(seed)
    least = chance.randint(0, 5)
    scale = Scale(least=least, most=least + chance.randint(1, 9), hot=chance.randint(0, least + 1), idle_s=20.0)
    load = Load(scale)
    for _ in range(50):
        load.wait_s = chance.choice([0.0, 1.0, 1e9])
        load.came = chance.choice([0, load.came + chance.randint(0, 10_000)])
        wanted = load.look(
            there=chance.randint(0, 20),
            queued=chance.choice([0, chance.randint(0, 10**9)]),
            running=chance.randint(0, 1000),
            workers=chance.randint(0, 20),
            service_s=chance.choice([1e-6, 1.0, 1e6]),
        )
        assert scale.least <= wanted <= scale.most


@pytest.mark.parametrize("elapsed_s", [0.0, -1.0])
def test_two_looks_at_one_moment(elapsed_s: float) -> None:
    load = Load()
    load.look(per_s=1, queued=1, service_s=1.0)
    load.now -= LOOK_S + elapsed_s
    assert load.look(per_s=1, queued=1, service_s=1.0) == 1


def test_a_caller_who_asks_one_thing_after_the_other_gets_one_replica() -> None:
    load = Load()
    assert load.look(per_s=1, for_s=600, running=1, workers=1, service_s=1.0) == 1


@pytest.mark.parametrize("service_s", [float("nan"), float("inf"), -float("inf"), -1.0, 1e300])
def test_a_measured_time_that_cannot_be_true_is_none(service_s: float) -> None:
    load = Load()
    assert load.look(queued=600, service_s=service_s) == 1
    assert load.look(queued=600, service_s=1.0) == 10
    assert load.look(queued=600, service_s=service_s) == 10, "the last good one stays"


@pytest.mark.parametrize("wait_s", [float("nan"), -1e9, -float("inf"), 0.0])
def test_an_absurd_wait_is_no_horizon(wait_s: float) -> None:
    assert Load(wait_s=wait_s).look(queued=600, service_s=1.0) == 10


def test_a_wait_without_an_end_asks_for_as_little_as_there_is() -> None:
    assert Load(wait_s=float("inf")).look(queued=600, service_s=1.0) == 1


@pytest.mark.parametrize("counts", [{}, {"queued": 1}, {"queued": 10_000, "service_s": 60.0}])
def test_a_minimum_above_the_maximum_is_the_maximum(counts: dict[str, float]) -> None:
    load = Load(Scale(least=9, most=4, hot=7, idle_s=10.0))
    assert load.scaler.bounded(0) == load.scaler.bounded(100) == 4
    assert load.look(**counts) == 4  # type: ignore[arg-type]  # they are counts
    assert load.look(for_s=100) == 4


def test_a_clock_that_stands_still_or_goes_back_breaks_nothing() -> None:
    scaler = Scaler(SCALE)
    for now in (100.0, 100.0, 50.0, 50.0, 101.0):
        found = scaler.observe(replace(NOTHING, queued=120, service_s=1.0), there=0, room=0, wait_s=0.0, now=now)
        assert found.replicas == 2
