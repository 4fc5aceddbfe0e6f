"""The engine that threads share: who wakes the background thread, and what is left alone after the end."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from hpcserve.client import Client
from hpcserve.client.call import Inference, Pending
from hpcserve.client.landing import Landing
from hpcserve.client.login import Login
from hpcserve.client.shared import SharedEngine
from hpcserve.types import Counter


def call() -> Inference:
    return Inference("echo", {}, parameters=None, timeout_s=1.0, priority=0, own=True, on_done=lambda _: None)


def is_nudged(shared: SharedEngine) -> bool:
    return bool(select.select([shared.wake_read], [], [], 0)[0])


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedEngine]:
    made = SharedEngine()
    monkeypatch.setattr(made, "_look_for_reader", lambda: None)  # it would nudge: there is no connection here
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


@pytest.mark.parametrize("late", [lambda shared: shared.cancel(1), SharedEngine.nudge, SharedEngine._look_for_reader])
def test_what_comes_after_the_end_writes_to_no_descriptor_of_others(
    shared: SharedEngine, late: Callable[[SharedEngine], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with shared.role:  # another thread is still inside its poll
        shared.reader = 1
        shared.close()
        shared.release()
        pipes = [os.pipe() for _ in range(4)]  # these have its descriptors' numbers now
        try:
            late(shared)
            assert not select.select([read for read, _ in pipes], [], [], 0)[0]
        finally:
            shared.reader = 0
            for each in pipes:
                os.close(each[0])
                os.close(each[1])


def test_a_map_may_be_collected_in_the_thread_that_has_the_lock(
    shared: SharedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector runs wherever it likes; what it finds dead is taken back without waiting for the lock."""

    def answer(call: Pending, _: object) -> None:
        call.done = True

    monkeypatch.setattr(shared, "wait", answer)
    client = Client.__new__(Client)  # connected to nothing
    client._shared, client.timeout_s, client._large_to = shared, 60.0, None

    def collect() -> None:
        cycle: list[object] = [client.map("echo", [{}] * 8, in_flight=4)]
        next(cycle[0])  # type: ignore[call-overload]  # the map
        cycle.append(cycle)
        assert shared.engine.waiting == 4
        with shared.lock:
            del cycle
            gc.collect()
        shared.resolve()  # as whoever has held the lock does

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    is_stuck = thread.is_alive()
    if is_stuck:
        shared.lock = threading.Lock()  # for the fixture, which would wait as well
    assert not is_stuck
    assert shared.engine.waiting == 1  # the one whose answer was made up here


def test_what_is_collected_under_the_lock_calls_nobody_back_there(shared: SharedEngine) -> None:
    is_locked: list[bool] = []

    def on_done(_: object) -> None:
        is_locked.append(shared.lock.locked())

    shared.start(Inference("echo", {}, parameters=None, timeout_s=1.0, priority=0, own=True, on_done=on_done))
    unwanted = shared.start(call())
    with shared.lock:
        shared.engine.cancel(Counter(1))
        shared.abandon(unwanted)
        assert is_locked == []
    shared.resolve()
    assert is_locked == [False]
    assert shared.engine.waiting == 0


def test_what_is_collected_calls_nobody_back(shared: SharedEngine) -> None:
    """The thread that collects may have a lock of the user's, for which the callback would wait."""
    called: list[object] = []
    shared.start(Inference("echo", {}, parameters=None, timeout_s=1.0, priority=0, own=True, on_done=called.append))
    unwanted = shared.start(call())
    with shared.lock:
        shared.engine.cancel(Counter(1))
    shared.abandon(unwanted)
    assert called == []
    assert is_nudged(shared)  # so that the keeper does it
    shared.resolve()
    assert len(called) == 1
    assert shared.engine.waiting == 0


def test_what_is_collected_within_a_nudge_waits_for_nothing(shared: SharedEngine) -> None:
    """Nor does it within the set() or the wait() of the event, which have the event's own lock."""
    unwanted = shared.start(call())

    def collect() -> None:
        with shared.lock, shared._waking, shared.wanted._cond:  # type: ignore[attr-defined]  # typeshed hides it
            shared.abandon(unwanted)

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    is_stuck = thread.is_alive()
    if is_stuck:
        shared.lock, shared.wanted, shared._waking = threading.Lock(), threading.Event(), threading.RLock()
    assert not is_stuck


class CutShort:
    """A lock whose caller is interrupted when it has just been had: a Ctrl-C comes after such a call, too."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._was = False

    def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
        taken = self._lock.acquire(blocking, timeout)
        if taken and not self._was:
            self._was = True
            raise KeyboardInterrupt
        return taken

    def release(self) -> None:
        self._lock.release()


def is_free(lock: Any) -> bool:
    """Whether another thread could have it."""
    had: list[bool] = []

    def have() -> None:
        had.append(lock.acquire(blocking=False))
        if had[0]:
            lock.release()

    thread = threading.Thread(target=have)
    thread.start()
    thread.join(10)
    return had == [True]


@pytest.mark.parametrize("where", ["as it is had", "as it reads", "as it is given back", "as it is asked for"])
def test_a_ctrl_c_leaves_the_role_to_others(shared: SharedEngine, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def read(*_: object) -> None:
        if where == "as it reads":
            interrupt()
        monkeypatch.setattr("hpcserve.client.shared.time.monotonic", interrupt)

    monkeypatch.setattr(shared, "_read", read)
    monkeypatch.setattr(shared.engine, "connection", object())  # there is something to read from
    keeper = shared.role if where == "as it is asked for" else None
    if where == "as it is had":
        monkeypatch.setattr(shared, "role", CutShort())
    if keeper is not None:
        monkeypatch.setattr(shared, "asking", CutShort())
        shared.keeper_reads = True
    with held_by_another(keeper), pytest.raises(KeyboardInterrupt):
        shared.wait(call(), None)
    role, asking = shared.role, shared.asking
    monkeypatch.undo()
    assert (shared.reader, shared.asker) == (0, 0)
    assert is_free(role)
    assert is_free(asking)


@contextlib.contextmanager
def held_by_another(lock: Any) -> Iterator[None]:
    """Another thread has it meanwhile, if there is one."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock or contextlib.nullcontext():
            held.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    try:
        yield
    finally:
        over.set()
        thread.join()


class Once:
    """What is interrupted the first time that it is waited for."""

    def __init__(self) -> None:
        self.times = 0

    def join(self) -> None:
        self.times += 1
        if self.times == 1:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """It holds nothing."""


def test_a_close_that_is_cut_short_goes_on_the_next_time(shared: SharedEngine) -> None:
    client = Client.__new__(Client)  # connected to nothing
    parts: dict[str, Any] = {"_shared": shared, "_landing": Landing(), "_login": Login(), "_way": Once()}
    parts |= {
        "_context": zmq.Context(),
        "_keeper": Once(),
        "_process": os.getpid(),
        "_cut_short": False,
        "_consents": None,
    }
    vars(client).update(parts)
    with pytest.raises(KeyboardInterrupt):
        client.close()
    assert not parts["_context"].closed
    for _ in range(2):
        client.close()
        assert parts["_context"].closed
        assert parts["_keeper"].times == 2
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(shared.wake_read)
