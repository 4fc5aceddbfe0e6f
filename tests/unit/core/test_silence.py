"""When a client that hears nothing reads the service record."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hpcserve.config import Recovery
from hpcserve.core.lease import broker_epoch
from hpcserve.core.silence import FIRST_S, LONGEST_GAP_S, LONGEST_S, Silence, is_succeeded

LOOK_S = 0.1
PING_S = 33.0  # the broker's pings are 30 s apart; it may be busy


def reads(silence: Silence, heard: int, *, from_s: float = 0.0, for_s: float, waits: bool = True) -> list[float]:
    """When the record is read within a time in which nothing comes."""
    times = [from_s + n * LOOK_S for n in range(1, round(for_s / LOOK_S) + 1)]
    return [now for now in times if silence.look(heard, now, waits=waits)]


def test_it_is_read_soon_and_then_less_often_but_never_seldom() -> None:
    found = [0.0, *reads(Silence(0.0), 0, for_s=205.0)]
    pauses = [after - before for before, after in pairwise(found)]
    assert pauses == pytest.approx([5.0, 10.0, 20.0, 40.0, 40.0, 40.0, 40.0], abs=2 * LOOK_S)
    assert (pauses[0], pauses[-1]) == pytest.approx((FIRST_S, LONGEST_S), abs=2 * LOOK_S)


def test_who_waits_for_hours_on_a_broker_that_pings_soon_reads_no_more() -> None:
    silence = Silence(0.0)
    times = [n * LOOK_S for n in range(1, 36_000)]
    found = [now for now in times if silence.look(int(now // PING_S), now, waits=True)]
    assert 1 <= len(found) <= 3
    assert found[-1] < 2 * PING_S


def test_a_client_comes_before_its_new_broker_takes_it_for_dead() -> None:
    assert Recovery().session_linger_s >= 1.5 * LONGEST_S


def test_each_message_begins_the_silence_anew() -> None:
    silence = Silence(0.0)
    assert not [n for n in range(1, 1000) if silence.look(n, n * LOOK_S, waits=True)]
    (first, *_) = reads(silence, 999, from_s=100.0, for_s=10.0)
    assert first == pytest.approx(100.0 + FIRST_S, abs=2 * LOOK_S)


def test_who_waits_for_nothing_reads_nothing() -> None:
    silence = Silence(0.0)
    assert not reads(silence, 0, for_s=100.0, waits=False)
    assert not reads(silence, 0, from_s=100.0, for_s=FIRST_S - 2 * LOOK_S)


def test_the_time_in_which_nobody_looked_is_no_silence() -> None:
    silence = Silence(0.0)
    assert not silence.look(0, 3600.0, waits=True)
    (first, *_) = reads(silence, 0, from_s=3600.0, for_s=10.0)
    assert first == pytest.approx(3600.0 + FIRST_S - LONGEST_GAP_S, abs=2 * LOOK_S)


def test_a_successor_is_a_later_lease_or_a_later_broker_of_the_same() -> None:
    own = broker_epoch(7, 2)
    later, earlier = (broker_epoch(8, 1), broker_epoch(7, 3)), (own, broker_epoch(7, 1), broker_epoch(6, 9))
    assert [is_succeeded(own, each) for each in (*later, *earlier)] == [True, True, False, False, False]
