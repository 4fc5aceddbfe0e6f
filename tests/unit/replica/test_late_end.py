"""A stream that is ended after its deadline, since something else ran until then: that is not yet a hang."""

from __future__ import annotations

import faulthandler
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from hpcserve.core.batching import Policy
from hpcserve.replica.alarm import Alarm
from hpcserve.replica.executor import Executor
from hpcserve.replica.link import Link
from hpcserve.replica.running import Running
from hpcserve.replica.streams import Streams
from hpcserve.replica.task import Task
from hpcserve.servable.loaded import Loaded, Method
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.types import Counter, Epoch, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.tensor import pack

GRACE_S = 1000.0
LATE_S = 10 * GRACE_S


class Host(Running):
    """A replica for which somebody always waits."""

    def is_wanted(self, task: Task) -> bool:
        return True


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    before = signal.getsignal(signal.SIGALRM)
    made = Alarm(GRACE_S)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # should it go off, the test fails, and no more
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    faulthandler.unregister(signal.SIGALRM)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def test_what_is_late_when_it_is_ended_has_the_grace_from_then_on(
    alarm: Alarm, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    left_s = []

    def counts(_inputs: Mapping[str, Any], _parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        try:
            while True:
                yield {"y": np.zeros(1, np.int64)}
        finally:
            left_s.append(signal.getitimer(signal.ITIMER_REAL)[0])

    spec = MethodSpec(inputs=(), outputs=(TensorDecl(name="y", dtype="int64", shape=(-1,)),), stream=True)
    executor = Executor(Loaded({"go": Method(spec, counts)}), "go")
    link = Link(context, tmp_path / "none.json", b"", b"")  # without a connection, what is sent is dropped
    running = Host(
        link,
        executor,
        alarm,
        replica="r-1",
        version="v1",
        image="",
        outbox_bytes=1 << 20,
        policy_of=lambda method: Policy(max_samples=1),
    )
    streams = Streams(running, executor, link, replica="r-1", version="v1", budget_bytes=1 << 20)
    key = (SessionId(bytes(32)), Counter(1))
    work = wire.Work(Epoch(1), 1, *key, "go", *pack({})[:1])
    task = Task(key, work, "go", [], time.monotonic() + GRACE_S, 1)
    streams.open(task, wire.Window(1, 1 << 20))
    streams.go_on()
    task.deadline = time.monotonic() - LATE_S
    streams.close()
    assert [0.9 * GRACE_S < left < 1.1 * GRACE_S for left in left_s] == [True]
