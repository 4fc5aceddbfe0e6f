"""When a client says HELLO again."""

from __future__ import annotations

import threading
import time

import pytest

from hpcserve.client import renewal as renewal_
from hpcserve.client.renewal import Renewal
from hpcserve.errors import ServiceUnavailable

PATIENCE_S = 60.0


class Door:
    """Lets in for ``lasts_s`` as soon as it has failed ``failures`` times."""

    def __init__(self, lasts_s: float | None, failures: tuple[Exception, ...] = ()) -> None:
        self.lasts_s = lasts_s
        self.failures = list(failures)
        self.said = threading.Semaphore(0)
        self.at: list[float] = []

    def hello(self) -> float | None:
        self.at.append(time.monotonic())
        self.said.release()
        if self.failures:
            raise self.failures.pop()
        return self.lasts_s


def test_it_says_hello_before_the_end_and_again_before_the_next() -> None:
    door = Door(2.0)
    renewal = Renewal(door.hello)
    began = time.monotonic()
    renewal.welcomed(2.0)
    assert door.said.acquire(timeout=PATIENCE_S)
    assert door.at[0] - began >= 1.0, "not at once"
    assert door.said.acquire(timeout=PATIENCE_S)
    renewal.stop()


@pytest.mark.parametrize("failure", [ServiceUnavailable("away"), RuntimeError("a defect")])
def test_what_fails_is_tried_again_until_the_end(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal_, "PART", 0.01)
    monkeypatch.setattr(renewal_, "AGAIN", 0.01)
    door = Door(None, (failure, failure))
    renewal = Renewal(door.hello)
    renewal.welcomed(30.0)
    for _ in range(3):
        assert door.said.acquire(timeout=PATIENCE_S)
    assert door.at[2] - door.at[1] >= 0.1, "with pauses"
    renewal.stop()


def test_after_the_end_it_waits_for_the_next_welcome() -> None:
    door = Door(60.0, (ServiceUnavailable("away"),))
    renewal = Renewal(door.hello)
    renewal.welcomed(0.0)
    assert door.said.acquire(timeout=PATIENCE_S)
    assert not door.said.acquire(timeout=1.0)
    renewal.welcomed(0.5)
    assert door.said.acquire(timeout=PATIENCE_S)
    renewal.stop()


def test_there_is_no_thread_where_nothing_ends_and_none_after_the_end() -> None:
    renewal = Renewal(Door(None).hello)
    renewal.welcomed(None)
    assert renewal._thread is None
    renewal.welcomed(1000.0)
    thread = renewal._thread
    assert thread is not None
    renewal.stop()
    assert not thread.is_alive()
    renewal.welcomed(1.0)
    assert renewal._thread is thread
