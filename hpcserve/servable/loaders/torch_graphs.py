"""CUDA graphs: the GPU's work for one batch size, recorded once and played with one call.

A graph reads and writes the memory that it was recorded with. So a batch is copied into it on the GPU, filled up with
zeros to the recorded size, and the outputs are copied out of it: both in the stream of the graph, so that the next
batch does not touch what this one still uses, nor the graph of another size, whose memory is the same. The largest
size is recorded first: the others find room in what it has taken. Batches larger than that run as without graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpcserve.servable.loaders.torch_model import Compute, Tensors
from hpcserve.servable.loaders.torch_overlap import Overlap
from hpcserve.servable.manifest import MethodSpec

FIRST_RUNS = 3
"""So often a model runs before it is recorded: libraries choose their kernels and take their memory then."""


class Graph:
    """One recorded size."""

    def __init__(self, inputs: Tensors, outputs: Tensors, play: Callable[[], object]) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._play = play

    def run(self, given: Tensors, samples: int) -> dict[str, Any]:
        """Computes so many samples, at most those that it was recorded with."""
        for name, static in self._inputs.items():
            static[:samples].copy_(given[name])
            static[samples:].zero_()
        self._play()
        return {name: static[:samples].clone() for name, static in self._outputs.items()}


def recorded(torch: Any, overlap: Overlap, spec: MethodSpec, compute: Compute) -> Compute:
    """The same computation with a graph for each preferred batch size of its method."""
    batching = spec.batching
    sizes = sorted({size for size in batching.preferred_batch_sizes if size <= batching.max_batch_size})
    graphs = {size: _graph(torch, overlap, spec, compute, size) for size in reversed(sizes)}

    def run(given: Tensors) -> dict[str, Any]:
        samples = len(next(iter(given.values())))
        size = next((size for size in sizes if samples <= size), None)
        return compute(given) if size is None else graphs[size].run(given, samples)

    return run if sizes else compute


def _graph(torch: Any, overlap: Overlap, spec: MethodSpec, compute: Compute, size: int) -> Graph:
    cuda = overlap.cuda
    with torch.inference_mode(), cuda.using(overlap.compute):
        inputs = {
            tensor.name: cuda.zeros((size, *tensor.shape[1:]), getattr(torch, tensor.dtype)) for tensor in spec.inputs
        }
        for _ in range(FIRST_RUNS):
            compute(inputs)
        ready = cuda.event()
        ready.record(overlap.compute)
        ready.synchronize()
        play, outputs = cuda.recorded(overlap.compute, lambda: compute(inputs))
    return Graph(inputs, outputs, play)
