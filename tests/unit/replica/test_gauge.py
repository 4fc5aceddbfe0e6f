"""How often a replica looks at its devices."""

from __future__ import annotations

import math

from hpcserve.replica.gauge import FRESH_S, READ_EVERY_S, Gauge, OfAllRanks
from hpcserve.wire.messages import DeviceUse

USE = DeviceUse("NVIDIA H200", "GPU-1", 1, 2, 3)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Devices:
    """Reading them takes a while."""

    def __init__(self, clock: Clock, takes_s: float, count: int = 1) -> None:
        self.clock, self.takes_s, self.count = clock, takes_s, count

    def __len__(self) -> int:
        return self.count

    def read(self) -> tuple[DeviceUse, ...]:
        self.clock.now += self.takes_s
        return (USE,) * self.count


def test_they_are_read_at_once_and_every_ten_seconds() -> None:
    clock = Clock()
    gauge = Gauge(Devices(clock, 0.001), clock)
    assert gauge.due_at == clock.now
    assert gauge.read() == (USE,)
    assert gauge.due_at == clock.now + READ_EVERY_S


def test_what_takes_long_to_read_is_read_seldom() -> None:
    clock = Clock()
    gauge = Gauge(Devices(clock, 0.5), clock)
    gauge.read()
    assert gauge.due_at == clock.now + 50.0


def test_rank_0_tells_of_all_that_the_ranks_see() -> None:
    clock = Clock()
    ours, other, late = (DeviceUse("NVIDIA H200", f"GPU-{name}", 1, 2, 3) for name in ("1", "2", "3"))
    told: dict[int, tuple[DeviceUse, ...]] = {2: (other,)}
    gauge = Gauge(OfAllRanks(Devices(clock, 0.0), told), clock)
    assert gauge.is_due()
    assert gauge.read() == (ours, other)
    assert not gauge.is_due()
    told[1] = (late, DeviceUse(ours.name, ours.id, 9, 9, 9))
    assert gauge.read() == (ours, late, other), "what it sees itself it knows best"
    del told[1]
    assert Gauge(OfAllRanks(None, told), clock).read() == (other,), "rank 0 alone has none"
    assert Gauge(OfAllRanks(None, {}), clock).due_at == math.inf


def test_how_busy_another_rank_s_are_is_told_for_a_while_after_its_last_answer() -> None:
    clock = Clock()
    other = DeviceUse("NVIDIA H200", "GPU-2", 4, 8, 99)
    told: dict[int, tuple[DeviceUse, ...]] = {1: (other,)}
    gauge = Gauge(OfAllRanks(Devices(clock, 0.0), told, clock), clock)

    def busy_after(pause_s: float) -> list[tuple[int, int | None]]:
        clock.now += pause_s
        return [(use.used_bytes, use.busy_percent) for use in gauge.read()]

    assert busy_after(0.0) == busy_after(FRESH_S - 1.0) == [(1, 3), (4, 99)]
    assert busy_after(1.0) == busy_after(1000.0) == [(1, 3), (4, None)], "it computes nothing since, or only that call"
    told[1] = (DeviceUse(other.name, other.id, 4, 8, 99),)
    assert busy_after(0.0) == [(1, 3), (4, 99)], "the same figures, told anew"
    assert busy_after(FRESH_S) == [(1, 3), (4, None)]


def test_without_devices_nothing_is_ever_due() -> None:
    clock = Clock()
    assert Gauge(None, clock).due_at == Gauge(Devices(clock, 0.0, count=0), clock).due_at == math.inf
    assert Gauge(None, clock).read() == ()
