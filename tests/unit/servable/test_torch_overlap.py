"""The order of a GPU's calls, on a stand-in that carries them out late: as late as its events allow."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from hpcserve.errors import ServableError
from hpcserve.servable.loaded import Loaded
from hpcserve.servable.loaders.torch import launching
from hpcserve.servable.loaders.torch_graphs import recorded
from hpcserve.servable.loaders.torch_overlap import Cuda, Overlap
from hpcserve.servable.manifest import Batching, Manifest, MethodSpec, TensorDecl, Torch

GARBAGE = -99.0


class Stream:
    """Work that is done in order, when somebody waits for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.work: deque[Callable[[], None]] = deque()

    def wait_event(self, event: Event) -> None:
        self.work.append(event.synchronize)

    def do(self, until: Callable[[], bool]) -> None:
        while not until():
            self.work.popleft()()


class Event:
    """Comes when its stream has done all that was there before."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.came = False

    def record(self, stream: Stream) -> None:
        self.stream = stream
        stream.work.append(self._come)

    def _come(self) -> None:
        self.came = True

    def query(self) -> bool:
        assert self.stream is not None, "it was recorded"
        return self.came

    def synchronize(self) -> None:
        assert self.stream is not None, "it was recorded"
        self.stream.do(lambda: self.came)


class Pretended(Cuda):
    """A GPU whose copies and kernels happen when an event is waited for; until then memory holds garbage."""

    def __init__(self, torch: Any) -> None:
        super().__init__(torch, torch.device("cpu"))
        self.torch = torch
        self.streams: list[Stream] = []
        self.current: Stream | None = None
        self.log: list[str] = []

    def stream(self) -> Stream:
        self.streams.append(Stream(("up", "compute", "down")[len(self.streams)]))
        return self.streams[-1]

    @contextlib.contextmanager
    def using(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def event(self) -> Event:
        return Event()

    def pinned(self, like: Any) -> Any:
        return self.torch.full(like.shape, GARBAGE, dtype=like.dtype)

    def up(self, host: Any) -> Any:
        there = self.torch.full(host.shape, GARBAGE, dtype=host.dtype)
        self.later("up", lambda: there.copy_(host))
        return there

    def down(self, host: Any, tensor: Any) -> None:
        self.later("down", lambda: host.copy_(tensor))

    def later(self, what: str, work: Callable[[], object]) -> None:
        assert self.current is not None, "it belongs to a stream"
        assert what == self.current.name

        def do() -> None:
            self.log.append(what)
            with self.torch.inference_mode():
                work()

        self.current.work.append(do)

    def doubled(self, given: Any) -> dict[str, Any]:
        """A model: its output is there, with garbage, before it has computed."""
        y = self.torch.full(given["x"].shape, GARBAGE, dtype=given["x"].dtype)
        self.later("compute", lambda: y.copy_(2 * given["x"]))
        return {"y": y}


@pytest.fixture
def cuda() -> Pretended:
    import torch

    return Pretended(torch)


def batch(value: int) -> dict[str, Any]:
    return {"x": np.full((2, 3), value, np.float32)}


def test_nothing_is_read_before_its_event_has_come(cuda: Pretended) -> None:
    overlap = Overlap(cuda.torch, cuda)
    first = overlap.launch(batch(1), cuda.doubled)
    second = overlap.launch(batch(2), cuda.doubled)
    assert not first.done()
    assert not cuda.log, "a launch waits for nothing"
    np.testing.assert_array_equal(first.result()["y"], np.full((2, 3), 2, np.float32))
    assert first.done()
    assert not second.done()
    assert cuda.log == ["up", "compute", "down"], "the first waits for nothing of the second"
    np.testing.assert_array_equal(second.result()["y"], np.full((2, 3), 4, np.float32))
    assert cuda.log == ["up", "compute", "down"] * 2


def test_the_next_inputs_arrive_while_a_batch_has_not_been_computed(cuda: Pretended) -> None:
    overlap = Overlap(cuda.torch, cuda)
    flown = [overlap.launch(batch(n), cuda.doubled) for n in (1, 2)]
    up = cuda.streams[0]
    up.do(lambda: not up.work)
    assert cuda.log == ["up", "up"], "the copies up wait neither for the model nor for the copies down"
    assert [each.result()["y"][0, 0] for each in flown] == [2, 4]


def test_the_callers_arrays_may_change_after_a_launch(cuda: Pretended) -> None:
    overlap = Overlap(cuda.torch, cuda)
    inputs = batch(1)
    flown = overlap.launch(inputs, cuda.doubled)
    inputs["x"][:] = 5
    assert flown.result()["y"][0, 0] == 2


def test_outputs_are_memory_of_their_own(cuda: Pretended) -> None:
    overlap = Overlap(cuda.torch, cuda)
    first = overlap.launch(batch(1), cuda.doubled).result()["y"]
    overlap.launch(batch(2), cuda.doubled).result()
    np.testing.assert_array_equal(first, np.full((2, 3), 2, np.float32))


def test_a_launch_that_fails_leaves_the_streams_in_order(cuda: Pretended) -> None:
    overlap = Overlap(cuda.torch, cuda)

    def fails(_given: Any) -> dict[str, Any]:
        raise cuda.torch.OutOfMemoryError("no room")

    before = overlap.launch(batch(1), cuda.doubled)
    with pytest.raises(cuda.torch.OutOfMemoryError):
        overlap.launch(batch(2), fails)
    after = overlap.launch(batch(3), cuda.doubled)
    assert [each.result()["y"][0, 0] for each in (before, after)] == [2, 6]


class Recording(Cuda):
    """A GPU that does everything at once; its graphs run their function again on the memory they were made with."""

    def __init__(self, torch: Any) -> None:
        super().__init__(torch, torch.device("cpu"))
        self.played: list[str] = []
        self.torch = torch

    def stream(self) -> Stream:
        return Stream("any")

    def using(self, stream: Stream) -> Any:
        return contextlib.nullcontext()

    def event(self) -> Event:
        return Event()

    def pinned(self, like: Any) -> Any:
        return self.torch.empty(like.shape, dtype=like.dtype)

    def recorded(self, stream: Stream, run: Callable[[], dict[str, Any]]) -> Any:
        outputs = run()
        (size,) = {len(each) for each in outputs.values()}

        def play() -> None:
            self.played.append(f"{size}")
            for name, tensor in run().items():
                outputs[name].copy_(tensor)

        return play, outputs


def test_batches_are_filled_up_to_the_next_recorded_size() -> None:
    import torch

    spec = MethodSpec(
        inputs=(TensorDecl(name="x", dtype="float32", shape=(-1, 3)),),
        outputs=(TensorDecl(name="y", dtype="float32", shape=(-1,)),),
        batchable=True,
        batching=Batching(preferred_batch_sizes=(8, 2, 4, 100), max_batch_size=8),
    )
    runs: list[int] = []

    def compute(given: Any) -> dict[str, Any]:
        runs.append(len(given["x"]))
        return {"y": given["x"].sum(dim=1)}

    cuda = Recording(torch)
    overlap = Overlap(torch, cuda)
    run = recorded(torch, overlap, spec, compute)
    assert set(runs) == {8, 4, 2}, "each size ran before anybody's request; none beyond the method's own limit"
    sizes = [1, 2, 3, 8, 4]
    inputs = [np.random.default_rng(n).random((n, 3), np.float32) for n in sizes]
    flown = [overlap.launch({"x": x}, run) for x in inputs]
    for x, each in zip(inputs, flown, strict=True):
        found = each.result()["y"]
        np.testing.assert_allclose(found, x.sum(axis=1), rtol=1e-6)
    assert cuda.played == ["2", "2", "4", "8", "4"]
    runs.clear()
    x = np.ones((11, 3), np.float32)
    assert overlap.launch({"x": x}, run).result()["y"].tolist() == [3.0] * 11
    assert runs == [11], "what is larger than all of them runs as it is"
    assert len(cuda.played) == len(sizes)


@pytest.mark.parametrize("graphs", [True, False])
def test_a_models_methods_launch(*, graphs: bool) -> None:
    import torch

    spec = MethodSpec(
        inputs=(TensorDecl(name="x", dtype="float32", shape=(-1, 3)),),
        outputs=(TensorDecl(name="y", dtype="float32", shape=(-1,)),),
        batchable=True,
        batching=Batching(preferred_batch_sizes=(4,)),
    )
    manifest = Manifest(
        name="a", loader="torch", file="a.pt", methods={"predict": spec}, torch=Torch(cuda_graphs=graphs)
    )

    def compute(given: Any) -> dict[str, Any]:
        assert torch.is_inference_mode_enabled()
        if (given["x"] < 0).any():
            raise torch.OutOfMemoryError("no room")
        return {"y": given["x"].sum(dim=1)}

    cuda = Recording(torch)
    loaded = Loaded(launching(torch, manifest, {"predict": compute}, cuda))
    assert loaded.methods["predict"].launches
    x = np.ones((3, 3), np.float32)
    launched = loaded.launch("predict", {"x": x}, {})
    assert launched.result()["y"].tolist() == [3.0] * 3
    assert loaded.run("predict", {"x": x}, {})["y"].tolist() == [3.0] * 3
    assert cuda.played == ["4", "4"] * graphs
    with pytest.raises(ServableError) as caught:
        loaded.run("predict", {"x": -np.ones((9, 3), np.float32)}, {})
    assert type(caught.value.__cause__).__name__ == "OutOfMemoryError", "by which its replica halves the batch"
