"""The order of a GPU's calls, on a stand-in that carries them out late: as late as its events allow."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
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
    """A GPU whose copies and kernels happen when an event is waited for.

    They know memory by its address. What nobody holds any more belongs to others: it is overwritten with garbage
    before each use. Its graphs do again, on the memory that they were made with, what was done when they were.
    """

    def __init__(self, torch: Any) -> None:
        super().__init__(torch, torch.device("cpu"))
        self.torch = torch
        self.streams: list[Stream] = []
        self.default = self.current = Stream("default")
        self.log: list[str] = []
        self.played: list[int] = []
        self._memory: dict[int, np.ndarray[Any, Any]] = {}
        self._freed: set[int] = set()
        self._recording: list[Callable[[], None]] | None = None
        self._doing = False

    def stream(self) -> Stream:
        self.streams.append(Stream(("up", "compute", "down")[len(self.streams)]))
        return self.streams[-1]

    @contextlib.contextmanager
    def using(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            with self._torch_is_late():
                yield
        finally:
            self.current = before

    def event(self) -> Event:
        return Event()

    def synchronize(self) -> None:
        for stream in (self.default, *self.streams):
            stream.do(lambda work=stream.work: not work)  # type: ignore[misc]  # mypy has no types for defaults

    def pinned(self, shape: Any, dtype: Any) -> Any:
        return self.memory(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        made = self.memory(shape, dtype)
        self.kernel("compute", lambda it: it.zero_(), made)
        return made

    def up(self, host: Any) -> Any:
        there = self.memory(host.shape, host.dtype)
        self.kernel("up", lambda to, given: to.copy_(given), there, host)
        return there

    def down(self, host: Any, tensor: Any) -> None:
        self.kernel("down", lambda to, given: to.copy_(given), host, tensor)

    def recorded(self, stream: Stream, run: Callable[[], dict[str, Any]]) -> Any:
        steps: list[Callable[[], None]] = []
        self._recording = steps
        outputs = run()
        self._recording = None
        (size,) = {len(each) for each in outputs.values()}

        def play() -> None:
            assert self.current is stream
            self.played.append(size)
            stream.work.extend(steps)

        return play, outputs

    def memory(self, shape: Any, dtype: Any) -> Any:
        """Some, with garbage in it."""
        buffer = np.full(tuple(shape), GARBAGE, self.torch.empty(0, dtype=dtype).numpy().dtype)
        held = buffer.view()
        tensor = self.torch.from_numpy(held)
        address = tensor.data_ptr()
        self._memory[address] = buffer  # for ever, so that addresses are not given twice
        weakref.finalize(held, self._freed.add, address)
        return tensor

    def kernel(self, what: str, work: Callable[..., object], *tensors: Any) -> None:
        """What the current stream will do to these tensors."""
        assert what == self.current.name
        memory, parts = [], []
        for tensor in tensors:
            memory.append(tensor.untyped_storage().data_ptr())
            whole = self.torch.from_numpy(self._memory[memory[-1]])
            parts.append(whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()))

        def do() -> None:
            self.log.append(what)
            for address in self._freed.intersection(memory):
                self._memory[address].fill(GARBAGE)
            self._doing = True
            with self.torch.inference_mode():
                work(*parts)
            self._doing = False

        (self.current.work if self._recording is None else self._recording).append(do)

    def doubled(self, given: Any) -> dict[str, Any]:
        """A model: its output is there, with garbage, before it has computed."""
        y = self.memory(given["x"].shape, given["x"].dtype)
        self.kernel("compute", lambda to, x: to.copy_(2 * x), y, given["x"])
        return {"y": y}

    def summed(self, given: Any) -> dict[str, Any]:
        """One that sums each sample, and notices in each sample what is in the others."""
        y = self.memory(given["x"].shape[:1], given["x"].dtype)
        self.kernel("compute", lambda to, x: to.copy_(x.sum(dim=1) + 1000 * x.sum()), y, given["x"])
        return {"y": y}

    def _torch_is_late(self) -> Any:
        """While it is entered, what torch itself does to memory is left to the current stream too."""
        torch, cuda = self.torch, self
        mode: Any = torch.overrides.TorchFunctionMode

        class Late(mode):  # type: ignore[misc]  # torch is imported late, so nobody knows its type
            def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if cuda._doing or func not in {torch.Tensor.copy_, torch.Tensor.zero_, torch.Tensor.clone}:
                    return func(*args, **(kwargs or {}))
                if func is torch.Tensor.clone:
                    args = (cuda.memory(args[0].shape, args[0].dtype), args[0])
                    func = torch.Tensor.copy_
                cuda.kernel(cuda.current.name, func, *args)
                return args[0]

        return Late()


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


def test_memory_of_a_launch_that_fails_is_kept_until_the_device_is_done_with_it(cuda: Pretended) -> None:
    overlap = Overlap(cuda.torch, cuda)
    found: list[Any] = []

    def fails(given: Any) -> dict[str, Any]:
        found.append(cuda.doubled(given)["y"])
        raise cuda.torch.OutOfMemoryError("no room for more")

    with pytest.raises(cuda.torch.OutOfMemoryError):
        overlap.launch(batch(2), fails)
    assert not any(stream.work for stream in cuda.streams)
    assert found[0].unique().tolist() == [4]


def test_the_first_call_finds_what_was_begun_when_the_model_was_made(cuda: Pretended) -> None:
    weight = cuda.memory((1,), cuda.torch.float32)
    cuda.kernel("default", lambda to: to.fill_(3), weight)

    def compute(given: Any) -> dict[str, Any]:
        y = cuda.memory(given["x"].shape, given["x"].dtype)
        cuda.kernel("compute", lambda to, x, by: to.copy_(x * by), y, given["x"], weight)
        return {"y": y}

    assert Overlap(cuda.torch, cuda).launch(batch(2), compute).result()["y"].tolist() == [[6] * 3] * 2


def sums(x: Any) -> Any:
    return x.sum(axis=1) + 1000 * x.sum()


SUMMED = MethodSpec(
    inputs=(TensorDecl(name="x", dtype="float32", shape=(-1, 3)),),
    outputs=(TensorDecl(name="y", dtype="float32", shape=(-1,)),),
    batchable=True,
    batching=Batching(preferred_batch_sizes=(8, 2, 4, 100), max_batch_size=8),
)


def test_batches_are_filled_up_to_the_next_recorded_size(cuda: Pretended) -> None:
    runs: list[int] = []

    def compute(given: Any) -> dict[str, Any]:
        runs.append(len(given["x"]))
        return cuda.summed(given)

    overlap = Overlap(cuda.torch, cuda)
    run = recorded(cuda.torch, overlap, SUMMED, compute)
    assert set(runs) == {8, 4, 2}, "each size ran before anybody's request; none beyond the method's own limit"
    assert runs == sorted(runs, reverse=True), "the smaller ones find room where the largest was"
    runs.clear()
    sizes = [1, 2, 3, 8, 4]
    inputs = [np.random.default_rng(n).random((n, 3), np.float32) for n in sizes]
    flown = [overlap.launch({"x": x}, run) for x in inputs]
    for x, each in zip(inputs, flown, strict=True):
        np.testing.assert_allclose(each.result()["y"], sums(x), rtol=1e-5)
    assert cuda.played == [2, 2, 4, 8, 4]
    assert not runs
    x = np.ones((11, 3), np.float32)
    np.testing.assert_allclose(overlap.launch({"x": x}, run).result()["y"], sums(x))
    assert runs == [11], "what is larger than all of them runs as it is"
    assert len(cuda.played) == len(sizes)


def test_a_smaller_batch_finds_zeros_where_a_larger_one_was(cuda: Pretended) -> None:
    overlap = Overlap(cuda.torch, cuda)
    run = recorded(cuda.torch, overlap, SUMMED, cuda.summed)
    for samples in (8, 5, 7):
        x = np.full((samples, 3), samples, np.float32)
        np.testing.assert_allclose(overlap.launch({"x": x}, run).result()["y"], sums(x))
    assert cuda.played == [8, 8, 8]


def test_what_a_graph_put_out_is_kept_when_it_plays_again_first(cuda: Pretended) -> None:
    overlap = Overlap(cuda.torch, cuda)
    run = recorded(cuda.torch, overlap, SUMMED, cuda.summed)
    inputs = [np.full((2, 3), value, np.float32) for value in (1, 2)]
    flown = [overlap.launch({"x": x}, run) for x in inputs]
    compute = cuda.streams[1]
    compute.do(lambda: not compute.work)
    for x, each in zip(inputs, flown, strict=True):
        np.testing.assert_allclose(each.result()["y"], sums(x))


def test_all_graphs_of_a_device_share_their_memory() -> None:
    """Of torch's calls that need a GPU, only what they are told."""
    pools: list[object] = []
    sizes: list[int] = []

    def graph(_graph: object, *, pool: object, stream: object) -> Any:
        assert stream == "compute"
        pools.append(pool)
        return contextlib.nullcontext()

    def outputs(size: int) -> dict[str, Any]:
        sizes.append(size)
        return {}

    calls = SimpleNamespace(graph_pool_handle=object, CUDAGraph=lambda: SimpleNamespace(replay=None), graph=graph)
    cuda = Cuda(SimpleNamespace(cuda=calls), "cuda")
    for size in (8, 4, 2):
        cuda.recorded("compute", functools.partial(outputs, size))
    assert sizes == [8, 4, 2]
    assert len(pools) == 3
    assert len(set(pools)) == 1
    assert pools[0] is not None


@pytest.mark.parametrize("graphs", [True, False])
def test_a_models_methods_launch(cuda: Pretended, *, graphs: bool) -> None:
    torch = cuda.torch
    manifest = Manifest(
        name="a", loader="torch", file="a.pt", methods={"predict": SUMMED}, torch=Torch(cuda_graphs=graphs)
    )

    def compute(given: Any) -> dict[str, Any]:
        assert torch.is_inference_mode_enabled()
        if len(given["x"]) > 8:
            raise torch.OutOfMemoryError("no room")
        return cuda.summed(given)

    loaded = Loaded(launching(torch, manifest, {"predict": compute}, cuda))
    assert loaded.methods["predict"].launches
    x = np.ones((3, 3), np.float32)
    launched = loaded.launch("predict", {"x": x}, {})
    np.testing.assert_allclose(launched.result()["y"], sums(x))
    np.testing.assert_allclose(loaded.run("predict", {"x": x}, {})["y"], sums(x))
    assert cuda.played == [4, 4] * graphs
    with pytest.raises(ServableError) as caught:
        loaded.run("predict", {"x": np.ones((9, 3), np.float32)}, {})
    assert type(caught.value.__cause__).__name__ == "OutOfMemoryError", "by which its replica halves the batch"
