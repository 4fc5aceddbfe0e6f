"""Several requests as one call of their method: inputs put together along the first axis, outputs taken apart.

Pure functions over arrays. Which requests come together is decided in :mod:`hpcserve.core.batching`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcserve.errors import InvalidInput, InvalidOutput
from hpcserve.servable.manifest import MethodSpec
from hpcserve.servable.signature import Signature

Array = npt.NDArray[Any]
Key = tuple[tuple[str, str, tuple[int, ...]], ...]
"""What tensors must have in common to be put together: names, dtypes, axes; of a padded axis only the octave of its
length, as a negative number: else one long input would have all the others filled up to many times their size."""


def key_of(spec: MethodSpec, names: Sequence[str], signature: Signature) -> tuple[Key, int]:
    """What a request shares with those that it may be put together with, and its number of samples.

    Args:
        spec: The batchable method.
        names: The declared names of the inputs, in the order of ``signature``.
        signature: Name, dtype and shape of each input; they fit the declaration.

    Raises:
        InvalidInput: The inputs have different numbers of samples.
    """
    counts = {shape[0] for _, _, shape in signature}
    if len(counts) > 1:
        told = ", ".join(f"{name!r} has {shape[0]}" for name, (_, _, shape) in zip(names, signature, strict=True))
        raise InvalidInput(f"the first axis counts samples, and must be the same for every input: {told}")
    key = []
    for name, (_, dtype, shape) in sorted(zip(names, signature, strict=True)):
        declared = next(tensor.shape for tensor in spec.inputs if tensor.name == name)
        is_padded = name in spec.batching.pad
        axes = (
            ~length.bit_length() if is_padded and wanted == -1 else length
            for wanted, length in zip(declared[1:], shape[1:], strict=True)
        )
        key.append((name, dtype, tuple(axes)))
    return tuple(key), counts.pop()


def in_words(key: object) -> str:
    """A :data:`Key` for people: ``x float32[n, 3]``, with ``4-7`` for a padded axis of such a length."""
    assert isinstance(key, tuple), "it was made by key_of"
    return ", ".join(f"{name} {dtype}[{', '.join(('n', *map(_length_in_words, axes)))}]" for name, dtype, axes in key)


def _length_in_words(axis: int) -> str:
    if axis >= 0:
        return str(axis)
    lowest, highest = 2**~axis // 2, 2**~axis - 1
    return str(highest) if lowest == highest else f"{lowest}-{highest}"


def joined(spec: MethodSpec, requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The inputs of one call, in memory of its own."""
    return {
        name: np.concatenate(_even([each[name] for each in requests], spec.batching.pad.get(name)))
        for name in requests[0]
    }


def _even(arrays: list[Array], fill: float | None) -> list[Array]:
    """The arrays with equal axes after the first: shorter ones are filled up at the end."""
    axes = {array.shape[1:] for array in arrays}
    if len(axes) == 1:
        return arrays
    assert fill is not None, "only requests with a padded input differ in their axes"
    longest = tuple(map(max, zip(*axes, strict=True)))
    even = []
    for array in arrays:
        whole = np.full((len(array), *longest), fill, array.dtype)
        whole[tuple(slice(length) for length in array.shape)] = array
        even.append(whole)
    return even


def check_samples(method: str, outputs: Mapping[str, Array], samples: int) -> None:
    """Checks what a batchable method returned for so many samples.

    Raises:
        InvalidOutput: An output has another number of them.
    """
    for name, output in outputs.items():
        if len(output) != samples:
            raise InvalidOutput(
                f"method {method!r} was called with {samples} samples and returned {len(output)} of {name!r}: a "
                "batchable method returns one for each"
            )


def parted(
    method: str, spec: MethodSpec, outputs: Mapping[str, Array], requests: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    """Each request's own outputs: its samples, and with their own lengths where the output is ``cut``.

    Raises:
        InvalidOutput: An output has another number of samples than the inputs.
    """
    counts = [len(next(iter(each.values()))) for each in requests]
    check_samples(method, outputs, sum(counts))
    bounds = np.cumsum(counts)[:-1]
    parts = {name: np.split(output, bounds) for name, output in outputs.items()}
    return [
        {name: _cut(spec, name, part[index], request) for name, part in parts.items()}
        for index, request in enumerate(requests)
    ]


def _cut(spec: MethodSpec, name: str, output: Array, request: Mapping[str, Array]) -> Array:
    like = spec.batching.cut.get(name)
    if like is None:
        return output
    lengths = iter(_free_lengths(spec.inputs, like, request[like]))
    declared = next(tensor.shape for tensor in spec.outputs if tensor.name == name)
    return output[tuple(slice(next(lengths)) if axis == -1 and at else slice(None) for at, axis in enumerate(declared))]


def _free_lengths(tensors: Sequence[Any], name: str, array: Array) -> list[int]:
    """The lengths of an array's axes that may have any, without the first."""
    declared = next(tensor.shape for tensor in tensors if tensor.name == name)
    return [length for wanted, length in list(zip(declared, array.shape, strict=True))[1:] if wanted == -1]
