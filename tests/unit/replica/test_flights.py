"""Launched calls: until when each may compute before that is a hang."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from hpcserve.core.credit import Credit
from hpcserve.core.ledger import NEVER
from hpcserve.replica.executor import Executor
from hpcserve.replica.flights import Flights
from hpcserve.replica.outcome import Outcome
from hpcserve.replica.staged import Stager
from hpcserve.replica.task import Task
from hpcserve.servable.loaded import Loaded, Method
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.types import Counter, Epoch, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.launch import StagingRules
from hpcserve.wire.tensor import pack


class Loop:
    """What the flights tell their loop."""

    def __init__(self) -> None:
        self.told: tuple[list[int], list[int], float] = ([], [], 0.0)
        self.ended: dict[int, bool] = {}

    def flies(self, tasks: Sequence[Task], behind: Sequence[Task], deadline: float) -> None:
        self.told = ([task.key[1] for task in tasks], [task.key[1] for task in behind], deadline)

    def ran(self, began: float) -> float:
        return time.monotonic() - began

    def gave_up(self) -> bool:
        return False

    def learned(self) -> None:
        raise AssertionError("none of these is in a batch that is measured")

    def finish(self, task: Task, outcome: Outcome | None, run_us: int, items: int | None = None) -> None:
        assert task.key[1] not in self.ended, "it is answered once"
        assert outcome is not None
        self.ended[task.key[1]] = outcome.error is None


class Device:
    """Calls that end, in their order, when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Future[dict[str, Any]]] = []
        x, y = (TensorDecl(name=name, dtype="int64", shape=(-1,)) for name in "xy")
        spec = MethodSpec(inputs=(x,), outputs=(y,), batchable=True, launches=True)
        self.loop = Loop()
        self.flights = Flights(
            self.loop, Executor(Loaded({"go": Method(spec, self.launch)}), "go"), Credit(), Stager(StagingRules())
        )
        self.given = 0

    def launch(self, inputs: Mapping[str, Any], _parameters: Mapping[str, Any]) -> object:
        self.calls.append(Future())
        self.calls[-1].inputs = inputs["x"]  # type: ignore[attr-defined]
        return self.calls[-1]

    def begin(self, *deadlines: float) -> None:
        """Launches a call for requests with these deadlines, which are numbered from 1."""
        specs, frames = pack({"x": np.zeros(1, np.int64)})
        tasks = []
        for deadline in deadlines:
            self.given += 1
            work = wire.Work(Epoch(1), self.given, SessionId(b"s"), Counter(self.given), "go", specs)
            tasks.append(Task((work.session, work.id), work, "go", frames, deadline, 1))
        self.flights.launch(tasks, None, full=False)

    def end(self) -> None:
        """The first call that has not ended does."""
        call = next(call for call in self.calls if not call.done())
        call.set_result({"y": call.inputs})  # type: ignore[attr-defined]
        self.flights.land_done()


@pytest.fixture
def device() -> Device:
    return Device()


def test_a_call_alone_may_take_until_its_first_deadline(device: Device) -> None:
    device.begin(soon := time.monotonic() + 100, soon + 100)
    assert device.loop.told == ([1, 2], [], soon)


def test_the_deadlines_of_what_waits_for_the_device_do_not_count(device: Device) -> None:
    device.begin(NEVER)
    device.begin(time.monotonic())
    assert device.loop.told == ([1], [2], NEVER)


@pytest.mark.parametrize("left_s", [600.0, NEVER])
def test_a_batch_mate_that_was_answered_as_late_does_not_count(device: Device, left_s: float) -> None:
    deadline = time.monotonic() + left_s
    device.begin(NEVER)
    device.begin(time.monotonic(), deadline)
    device.end()
    assert device.loop.ended == {1: True, 2: False}
    assert device.loop.told == ([3], [], deadline)
    device.begin(NEVER)
    assert device.loop.told == ([3], [4], deadline), "nor later"
    device.end()
    assert device.loop.ended == {1: True, 2: False, 3: True}
    assert device.loop.told == ([4], [], NEVER)


def test_where_all_were_late_a_hang_counts_from_when_they_began(device: Device) -> None:
    device.begin(NEVER)
    device.begin(time.monotonic(), time.monotonic())
    before = time.monotonic()
    device.end()
    running, behind, began = device.loop.told
    assert (running, behind) == ([2, 3], []), "who asks is told that nobody waits for them"
    assert before <= began <= time.monotonic()
