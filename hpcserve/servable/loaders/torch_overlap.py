"""A GPU's copies beside its work: while one batch is computed the next one's inputs are on their way.

Three streams. ``up`` copies inputs from pinned host memory, ``compute`` runs the model, ``down`` copies outputs to
pinned host memory. Each batch goes through them in this order, held together by events::

    up:       copy k+1 ●                     copy k+2 ●
    compute:  run k         ● (waits) run k+1     ●
    down:                      copy k ●                copy k+1 ●

Copies of both directions in one stream would not overlap: the inputs of k+1 would wait behind the outputs of k, which
wait for k. All memory of a batch is kept until its last event has come, so nothing is used again before.
Only :class:`Cuda` calls ``torch.cuda`` (which is ROCm's name too).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from hpcserve.servable.loaders.torch_arrays import copied, to_array
from hpcserve.servable.loaders.torch_model import Compute, Tensors

Stream = Any
"""Has ``wait_event(event)``."""

Event = Any
"""Has ``record(stream)``, ``query()`` and ``synchronize()``."""


class Cuda:
    """The calls of a GPU."""

    def __init__(self, torch: Any, device: Any) -> None:
        self._torch = torch
        self._device = device
        self._graphs_memory: Any = None

    def stream(self) -> Stream:
        """A new stream."""
        return self._torch.cuda.Stream(self._device)

    def using(self, stream: Stream) -> AbstractContextManager[object]:
        """What is called inside goes to this stream."""
        entered: AbstractContextManager[object] = self._torch.cuda.stream(stream)
        return entered

    def event(self) -> Event:
        """A new event; who waits for it sleeps."""
        return self._torch.cuda.Event(blocking=True)

    def synchronize(self) -> None:
        """Waits for all that the device was given, in whichever stream."""
        self._torch.cuda.synchronize(self._device)

    def pinned(self, shape: Sequence[int], dtype: Any) -> Any:
        """Pinned memory, from torch's cache of it."""
        return self._torch.empty(shape, dtype=dtype, pin_memory=True)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A tensor on the GPU."""
        return self._torch.zeros(shape, dtype=dtype, device=self._device)

    def up(self, host: Any) -> Any:
        """Begins a copy to the GPU."""
        return host.to(self._device, non_blocking=True)

    def down(self, host: Any, tensor: Any) -> None:
        """Begins a copy from the GPU."""
        host.copy_(tensor, non_blocking=True)

    def recorded(
        self, stream: Stream, run: Callable[[], dict[str, Any]]
    ) -> tuple[Callable[[], object], dict[str, Any]]:
        """A CUDA graph of what ``run`` does: what plays it, and the outputs that each playing writes.

        All use the same memory: no two may play at a time, and what one writes is to be read before another plays.
        """
        if self._graphs_memory is None:
            self._graphs_memory = self._torch.cuda.graph_pool_handle()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, pool=self._graphs_memory, stream=stream):
            outputs = run()
        return graph.replay, outputs


class Flown:
    """One batch on its way. ``kept`` is whatever the device may still use.

    Args:
        torch: The package.
        landed: Comes when the outputs are there.
        outputs: Pinned tensors that they are copied into.
        kept: The batch's other memory.
    """

    def __init__(self, torch: Any, landed: Event, outputs: Mapping[str, Any], kept: object) -> None:
        self._torch = torch
        self._landed = landed
        self._outputs = outputs
        self._kept = kept

    def done(self) -> bool:
        """Whether the outputs are there."""
        return bool(self._landed.query())

    def result(self) -> dict[str, Any]:
        """The outputs as arrays, which have the pinned memory for themselves."""
        self._landed.synchronize()
        self._kept = None
        return {name: to_array(self._torch, host) for name, host in self._outputs.items()}


class Overlap:
    """The streams of one device.

    Args:
        torch: The package.
        cuda: Its calls.
    """

    def __init__(self, torch: Any, cuda: Cuda) -> None:
        self._torch = torch
        self.cuda = cuda
        cuda.synchronize()  # what made the model is in the default stream, which these do not wait for
        self._up = cuda.stream()
        self.compute = cuda.stream()
        self._down = cuda.stream()

    def launching(self, compute: Compute) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Flown]:
        """A method that launches each of its calls."""
        return lambda inputs, _parameters: self.launch(inputs, compute)

    def launch(self, inputs: Mapping[str, Any], compute: Compute) -> Flown:
        """Begins one batch of arrays."""
        try:
            return self._launch(inputs, compute)
        except BaseException:
            # Each piece of memory goes back to the stream that it was taken in, and others may still be using it.
            self.cuda.synchronize()
            raise

    def _launch(self, inputs: Mapping[str, Any], compute: Compute) -> Flown:
        with self._torch.inference_mode():
            hosts = {name: copied(self._torch, array, self.cuda.pinned) for name, array in inputs.items()}
            with self.cuda.using(self._up):
                given = {name: self.cuda.up(host) for name, host in hosts.items()}
            self._then(self._up, self.compute)
            with self.cuda.using(self.compute):
                outputs = compute(given)
            self._then(self.compute, self._down)
            with self.cuda.using(self._down):
                back = self._back(outputs)
            landed = self.cuda.event()
            landed.record(self._down)
        return Flown(self._torch, landed, back, (hosts, given, outputs))

    def _back(self, outputs: Tensors) -> dict[str, Any]:
        hosts = {name: self.cuda.pinned(tensor.shape, tensor.dtype) for name, tensor in outputs.items()}
        for name, tensor in outputs.items():
            self.cuda.down(hosts[name], tensor)
        return hosts

    def _then(self, first: Stream, second: Stream) -> None:
        """What follows in the second stream waits for all that is in the first by now."""
        event = self.cuda.event()
        event.record(first)
        second.wait_event(event)
