"""The timer that ends a replica whose request never ends."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from hpcserve.core.ledger import NEVER
from hpcserve.replica.alarm import AFTER_S, SLACK_S, Alarm

GRACE_S = 1000.0


def left_s() -> float:
    """Until the kernel's timer goes off; 0: it is off."""
    return signal.getitimer(signal.ITIMER_REAL)[0]


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    before = signal.getsignal(signal.SIGALRM)
    made = Alarm(GRACE_S)
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    faulthandler.unregister(signal.SIGALRM)
    signal.signal(signal.SIGALRM, before)


def test_it_goes_off_after_deadline_and_grace(alarm: Alarm) -> None:
    now = time.monotonic()
    alarm.watch(now + 10.0)
    assert 0.0 <= alarm.set_for - (now + 10.0 + GRACE_S + AFTER_S) <= SLACK_S
    assert 0.0 < left_s() <= 10.0 + GRACE_S + AFTER_S + SLACK_S


def test_nothing_puts_off_an_end_that_is_set(alarm: Alarm) -> None:
    now = time.monotonic()
    alarm.watch(NEVER)
    alarm.end_within(5.0)
    for later in (now + 100.0, NEVER):
        alarm.watch(later)
        assert 5.0 <= alarm.set_for - now <= 6.0 + SLACK_S
    alarm.rest()
    assert left_s() > 0.0


def test_requests_that_follow_each_other_share_one_setting(alarm: Alarm) -> None:
    now = time.monotonic()
    alarm.watch(now + 10.0)
    first = alarm.set_for
    alarm.watch(now + 10.0 + SLACK_S / 2)
    assert alarm.set_for == first
    alarm.watch(now + 10.0 + 2 * SLACK_S)
    assert alarm.set_for > first


@pytest.mark.parametrize("deadline_s", [1.0, 100.0])
def test_it_is_never_too_early_and_never_much_too_late(alarm: Alarm, deadline_s: float) -> None:
    now = time.monotonic()
    alarm.watch(now + 10.0)
    alarm.watch(now + deadline_s)
    assert 0.0 <= alarm.set_for - (now + deadline_s + GRACE_S + AFTER_S) <= SLACK_S


def test_a_request_without_a_deadline_takes_it_off(alarm: Alarm) -> None:
    alarm.watch(time.monotonic() + 10.0)
    alarm.watch(NEVER)
    assert left_s() == 0.0


def test_nothing_goes_off_at_rest(alarm: Alarm) -> None:
    alarm.rest()
    alarm.watch(time.monotonic() + 10.0)
    alarm.rest()
    assert (left_s(), alarm.set_for) == (0.0, NEVER)


def test_another_thread_may_set_an_end(alarm: Alarm) -> None:
    alarm.watch(time.monotonic() + 10.0)
    teller = threading.Thread(target=alarm.end_within, args=[5.0])
    teller.start()
    teller.join()
    assert 0.0 < left_s() <= 5.0
    alarm.end_within(100.0)
    assert 0.0 < left_s() <= 5.0, "whoever tells again does not put it off"
