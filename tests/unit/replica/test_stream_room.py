"""How much the streams of a replica keep together for readers that take nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from hpcserve.replica.executor import Executor
from hpcserve.replica.link import Link
from hpcserve.replica.outcome import Outcome
from hpcserve.replica.streams import Streams
from hpcserve.replica.task import Task
from hpcserve.servable.loaded import Loaded, Method
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.types import Counter, Epoch, RequestKey, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.tensor import pack

BUDGET_BYTES = 100_000


class Host:
    """A loop that has nothing else to do."""

    def begin(self, tasks: Sequence[Task]) -> float:
        return 0.0

    def ran(self, began: float) -> float:
        return 0.0

    def is_wanted(self, task: Task) -> bool:
        return True

    def finish(self, task: Task, outcome: Outcome | None, run_us: int, items: int | None) -> None:
        raise AssertionError("these streams have no end")

    def tell_credit(self) -> None:
        pass


def endless(inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    assert not parameters
    while True:
        yield {"y": np.zeros(inputs["bytes"], np.uint8)}


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[Streams]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    spec = MethodSpec(
        inputs=(TensorDecl(name="bytes", dtype="int64", shape=()),),
        outputs=(TensorDecl(name="y", dtype="uint8", shape=(-1,)),),
        stream=True,
    )
    executor = Executor(Loaded({"go": Method(spec, endless)}), "go")
    link = Link(context, tmp_path / "none.json", b"", b"")  # without a connection, what is sent is dropped
    made = Streams(Host(), executor, link, replica="r", version="1", budget_bytes=BUDGET_BYTES)
    yield made
    made.close()
    context.term()


def opened(streams: Streams, id: int, item_bytes: int, *, most: int = 1000) -> RequestKey:
    window = wire.Window(most, 1 << 30)
    specs, frames = pack({"bytes": np.int64(item_bytes)})
    session = SessionId(b"s")
    work = wire.Work(Epoch(1), id, session, Counter(id), "go", specs, window=window)
    streams.open(Task((session, Counter(id)), work, "go", [bytes(each) for each in frames], float("inf"), 1), window)
    return session, Counter(id)


def kept_bytes(streams: Streams) -> int:
    """After everything was made for which there is room."""
    while streams.ready:
        streams.go_on()
    return sum(out.kept_bytes for out in streams.kept.values())


def test_streams_keep_no_more_than_the_whole_outbox_once_the_size_of_their_items_is_known(streams: Streams) -> None:
    keys = [opened(streams, id, BUDGET_BYTES * 2 // 3) for id in range(1, 6)]
    kept_bytes(streams)
    taken = dict.fromkeys(keys, 0)
    for _ in range(3):
        for key in keys:
            taken[key] = streams.kept[key].next
            streams.more(key, taken[key], again=False)
        assert 0 < kept_bytes(streams) <= 2 * BUDGET_BYTES
    assert sum(streams.kept[key].next for key in keys) >= 3, "and yet they go on"


def test_an_item_as_large_as_may_be_comes_through_beside_one_that_nobody_takes(streams: Streams) -> None:
    opened(streams, 1, BUDGET_BYTES // 2, most=1)
    kept_bytes(streams)
    key = opened(streams, 2, BUDGET_BYTES * 19 // 10)
    kept_bytes(streams)
    for taken in range(1, 4):
        streams.more(key, taken, again=False)
        assert kept_bytes(streams) > BUDGET_BYTES
        assert streams.kept[key].next == taken + 1
