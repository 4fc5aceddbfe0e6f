"""The runs of a servable's warm-up: its manifest's sample inputs as arrays. Runs none of them.

An input has its value from ``inputs``, from the arrays of ``file``, or it is filled: with zeros or at random, in the
shape that ``shapes`` says, or the declared one with 1 for every length that may be any. A batchable method is run with
the samples as they are, then with as many of them, again and again from the first, as each of ``batch_sizes`` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcserve.core.spelling import nearest
from hpcserve.errors import HpcserveError, ManifestError
from hpcserve.servable.manifest import Manifest, MethodSpec, TensorDecl, WarmUp, default_method, method_named
from hpcserve.servable.outputs import describe
from hpcserve.servable.paths import inside
from hpcserve.servable.signature import check_inputs
from hpcserve.servable.values import byte_strings, numbers
from hpcserve.wire.dtype_names import BYTES, JSON
from hpcserve.wire.dtypes import dtype_named
from hpcserve.wire.jsonvalue import encode_json

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One call of ``method``; ``samples`` is None where it is not batchable. ``place``: where the manifest says so."""

    place: str
    method: str
    samples: int | None
    inputs: Inputs
    parameters: Mapping[str, Any]

    @property
    def in_words(self) -> str:
        """For the message of an error."""
        return f"{self.place}, method {self.method!r}" + ("" if self.samples is None else f", samples: {self.samples}")


def check(manifest: Manifest, directory: Path) -> None:
    """Looks whether each entry can be run. ``manifest`` has all methods, those that the code declares too.

    Raises:
        ManifestError: One cannot; the message has its place.
    """
    for place, warm_up in _placed(manifest):
        _first(place, warm_up, manifest, directory)


def runs(manifest: Manifest, directory: Path) -> Iterator[Run]:
    """All of them, each with arrays of its own.

    Args:
        manifest: With all methods, those that the code declares too.
        directory: The servable's files.

    Raises:
        ManifestError: As for :func:`check`.
    """
    for place, warm_up in _placed(manifest):
        first = _first(place, warm_up, manifest, directory)
        batching = manifest.methods[first.method].batching
        wanted = [size for size in batching.preferred_batch_sizes if size <= batching.max_batch_size]
        if warm_up.batch_sizes is not None:
            wanted = list(warm_up.batch_sizes)
        sizes = [] if first.samples is None else [size for size in wanted if size != first.samples]
        batches = [Run(place, first.method, size, _repeated(first.inputs, size), warm_up.parameters) for size in sizes]
        yield first
        yield from batches


def _placed(manifest: Manifest) -> Iterator[tuple[str, WarmUp]]:
    return ((f"warmup[{index}]", each) for index, each in enumerate(manifest.warmup))


def _first(place: str, warm_up: WarmUp, manifest: Manifest, directory: Path) -> Run:
    """The run with the samples as they are."""
    method = warm_up.method or default_method(manifest)
    if not method:
        raise ManifestError(f"{place}.method: name one of the servable's methods: {', '.join(manifest.methods)}")
    try:
        spec = method_named(manifest, method)
        inputs = _inputs(warm_up, spec, directory)
        check_inputs(method, spec, tuple(describe(tensor, inputs[tensor.name]) for tensor in spec.inputs))
        if warm_up.parameters and not spec.parameters:
            raise ManifestError(f"parameters: method {method!r} takes none")
        if warm_up.batch_sizes is not None and not spec.batchable:
            raise ManifestError(f"batch_sizes: method {method!r} is not batchable")
        samples = _samples(inputs) if spec.batchable else None
    except HpcserveError as error:
        raise ManifestError(f"{place}: {error.message}") from error
    return Run(place, method, samples, inputs, warm_up.parameters)


def _inputs(warm_up: WarmUp, spec: MethodSpec, directory: Path) -> Inputs:
    """A value for each declared input, whether it fits or not."""
    declared = {tensor.name: tensor for tensor in spec.inputs}
    stored = _stored(warm_up.file, directory) if warm_up.file is not None else {}
    given = {"inputs": warm_up.inputs, "file": stored, "shapes": warm_up.shapes}
    for field, names in given.items():
        for name in names:
            if name not in declared:
                raise ManifestError(f"{field}: unknown input {name!r}{nearest(name, declared)}")
            twice = [other for other in given if other != field and name in given[other]]
            if twice:
                raise ManifestError(f"input {name!r} is given by {field} and by {twice[0]}; keep one of them")
    values = warm_up.inputs | stored
    dice = np.random.default_rng(warm_up.seed)
    return {
        name: _valued(tensor, values[name]) if name in values else _filled(tensor, warm_up, dice)
        for name, tensor in declared.items()
    }


def _stored(file: str, directory: Path) -> Inputs:
    """The arrays of an .npz file."""
    path = inside(directory, file, "file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib each have errors of their own
        raise ManifestError(
            f"file: {file!r} is not an .npz file of plain arrays, as numpy.savez writes: {error}"
        ) from error


def _valued(tensor: TensorDecl, value: object) -> Any:
    if tensor.dtype == JSON:
        encode_json(tensor.name, value)
        return value
    try:
        if tensor.dtype != BYTES:
            return numbers(tensor.dtype, value)
        texts = byte_strings(value)
        flat = [one if isinstance(one, bytes) else one.encode() for one in texts.flat]
        return _objects(flat, texts.shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise ManifestError(f"input {tensor.name!r}: the value cannot be {tensor.dtype}: {error}") from error


def _objects(flat: list[bytes], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


def _filled(tensor: TensorDecl, warm_up: WarmUp, dice: np.random.Generator) -> Any:
    if tensor.dtype == JSON:
        raise ManifestError(f"input {tensor.name!r} is JSON: give its value in inputs")
    shape = warm_up.shapes.get(tensor.name, tuple(1 if length == -1 else length for length in tensor.shape))
    dtype = dtype_named(tensor.dtype)
    try:
        if tensor.dtype == BYTES:
            return np.full(shape, b"", dtype=object)
        if warm_up.fill == "zeros":
            return np.zeros(shape, dtype)
        if dtype.kind in "biu":
            return dice.integers(0, 2, shape).astype(dtype)
        if dtype.kind == "c":
            return (dice.random(shape) + 1j * dice.random(shape)).astype(dtype)
        return dice.random(shape).astype(dtype)
    except (MemoryError, ValueError) as error:
        raise ManifestError(f"input {tensor.name!r} of shape {list(shape)} cannot be made: {error}") from error


def _samples(inputs: Inputs) -> int:
    """The number of samples, which is the length of every input's first axis."""
    counts = {name: len(array) for name, array in inputs.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        told = ", ".join(f"{name!r} has {count}" for name, count in counts.items())
        raise ManifestError(f"every input needs the same number of samples, at least one: {told}")
    return next(iter(counts.values()))


def _repeated(inputs: Inputs, size: int) -> Inputs:
    """So many samples, again and again from the first."""
    return {name: np.take(array, np.arange(size) % len(array), axis=0) for name, array in inputs.items()}
