"""The engine that threads share: who wakes the background thread, and what is left alone after the end."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator

import pytest

from hpcserve.client.call import Inference
from hpcserve.client.shared import SharedEngine


def call() -> Inference:
    return Inference("echo", {}, parameters=None, timeout_s=1.0, priority=0, own=True, on_done=lambda _: None)


def is_nudged(shared: SharedEngine) -> bool:
    return bool(select.select([shared.wake_read], [], [], 0)[0])


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedEngine]:
    made = SharedEngine()
    with monkeypatch.context() as patch:
        patch.setattr(made, "_look_for_reader", lambda: None)  # it would nudge: there is no connection here
        yield made
    if made.close():
        made.release()


def test_of_two_calls_at_once_one_wakes_the_thread_that_sleeps_without_an_end(
    shared: SharedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.keeper_reads = shared.keeper_rests = True
    both_sent = threading.Barrier(2)
    with monkeypatch.context() as patch, shared.role:
        patch.setattr(shared, "resolve", lambda: both_sent.wait(10))
        threads = [threading.Thread(target=lambda: shared.start(call())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert shared.engine.waiting == 2
    assert is_nudged(shared)


def test_a_call_wakes_nobody_who_will_look_anyway(shared: SharedEngine) -> None:
    shared.keeper_reads = True
    with shared.role:
        shared.start(call())
    assert not is_nudged(shared)
