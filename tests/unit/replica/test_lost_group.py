"""A thread that says the last word of a group, while the servable asks in the main one whether anybody waits."""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from hpcserve.core.batching import Policy
from hpcserve.errors import ServableError
from hpcserve.replica.alarm import Alarm
from hpcserve.replica.executor import Executor
from hpcserve.replica.link import Link, Tensor
from hpcserve.replica.running import Running
from hpcserve.replica.task import Task
from hpcserve.servable.loaded import Loaded
from hpcserve.types import Counter, Epoch, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import encode
from hpcserve.wire.tensor import pack


class Slow(Link):
    """A link that is looked at for a long time."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], record: Path) -> None:
        super().__init__(context, record, b"", b"")
        self.looks = 0
        self.arrived: list[tuple[bytes, list[Tensor]]] = []
        self.sent_after: list[bool] = []
        self.inside, self.leave = threading.Event(), threading.Event()

    def has_message(self) -> bool:
        if self.arrived:
            return True
        self.looks += 1
        self.inside.set()
        assert self.leave.wait(60)
        return False

    def receive(self) -> tuple[bytes, list[Tensor]] | None:
        return self.arrived.pop()

    def send(self, header: bytes, tensors: Sequence[Tensor] = ()) -> None:
        self.sent_after.append(self.leave.is_set())


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Slow]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield Slow(context, tmp_path / "none.json")
    context.destroy(linger=0)


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    before = signal.getsignal(signal.SIGALRM)
    yield Alarm(1000.0)
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    faulthandler.unregister(signal.SIGALRM)
    signal.signal(signal.SIGALRM, before)


def test_two_threads_never_use_the_socket_at_a_time(link: Slow, alarm: Alarm) -> None:
    running = Running(
        link,
        Executor(Loaded({}), "go"),
        alarm,
        replica="r-1",
        version="v1",
        image="",
        outbox_bytes=1 << 20,
        policy_of=lambda method: Policy(max_samples=1),
    )
    key = (SessionId(bytes(32)), Counter(1))
    work = wire.Work(Epoch(1), 1, *key, "go", *pack({})[:1])
    link.arrived.append((encode(work), []))
    running.begin((Task(key, work, "go", [], 1e9, 1),))
    fails = threading.Thread(target=running.fail, args=[ServableError("another rank failed")])

    def watch() -> None:
        link.inside.wait(60)
        fails.start()
        fails.join(0.2)  # it waits for the one that looks
        link.leave.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    running.gave_up()
    watcher.join(60)
    fails.join(60)
    assert link.sent_after
    assert all(link.sent_after)
    looks = link.looks
    assert running.gave_up(), "nobody waits for a group that is lost"
    assert link.looks == looks
