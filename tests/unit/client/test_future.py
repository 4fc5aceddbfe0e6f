"""The future of a call, and the Ctrl-C of who waits for it."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from hpcserve.client.future import InferenceFuture


def test_an_interrupt_that_comes_just_before_the_wait_is_heard() -> None:
    future = InferenceFuture()
    over = threading.Event()

    def interrupt() -> None:
        # In another thread: as one that came after Python had last looked, it wakes nobody.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if not over.wait(20.0):
            future.cancel()

    def begin(_timeout: float | None) -> None:
        threading.Timer(0.1, interrupt).start()

    future.arm(begin, lambda: True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            future.result()
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
    assert not future.cancelled(), "it was not heard by itself"


def test_a_wait_ends_when_its_time_is_over() -> None:
    future = InferenceFuture()
    waited: list[float | None] = []
    future.arm(waited.append, lambda: True)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        future.result(1.2)
    assert time.monotonic() - began >= 1.2
    assert waited == [1.2]


def test_an_error_that_is_a_timeout_is_the_result() -> None:
    future = InferenceFuture()
    future.set_exception(TimeoutError("of the servable"))
    with pytest.raises(TimeoutError, match="of the servable"):
        future.result()
