"""Reads staged results: checked against the sha256 that came with the result, whole or piece by piece.

The layout is that of :mod:`hpcserve.wire.staged`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hpcserve.errors import StagedFileGone, TransferFailed
from hpcserve.staging.readers import READERS
from hpcserve.wire.dtype_names import BYTES, JSON
from hpcserve.wire.dtypes import dtype_named
from hpcserve.wire.elements import decode_elements
from hpcserve.wire.jsonvalue import decode_json
from hpcserve.wire.messages import Staged, StagedTensor

Array = npt.NDArray[Any]

PIECE_BYTES = 16 << 20
"""A data set is read, and hashed, in pieces of about so much."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A staged file, open for reading.

    Raises:
        StagedFileGone: It is not there any more.
        TransferFailed: It is no HDF5 file, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for whoever writes into it
            raise TransferFailed(f"the result's file {path} is no ordinary file")
        file = h5py.File(path, "r", locking=False)  # nobody changes it, and some file systems have no locks
    except FileNotFoundError as error:
        raise StagedFileGone(
            f"the result's file {path} is gone: the site keeps such files for a time only; call again, and fetch it "
            "sooner"
        ) from error
    except OSError as error:
        raise TransferFailed(f"the result's file {path} cannot be read: {error}") from error
    with file:
        yield file


def load(path: Path, staged: Staged) -> dict[str, Any]:
    """All tensors of a file, as they would have come in the message, checked.

    Raises:
        StagedFileGone: The file is not there any more.
        TransferFailed: It is not what the result told of.
        Cancelled: This is a daemon thread, and the program ends.
    """

    def read() -> dict[str, Any]:
        with opened(path) as file:
            return {tensor.name: _load(file, path, tensor) for tensor in staged.tensors}

    return READERS.run(read)


def verify(path: Path, staged: Staged) -> None:
    """Checks a file piece by piece, and keeps none.

    Raises:
        StagedFileGone: The file is not there any more.
        TransferFailed: It is not what the result told of.
        Cancelled: This is a daemon thread, and the program ends.
    """

    def read() -> None:
        with opened(path) as file:
            for tensor in staged.tensors:
                hashed = hashlib.sha256()
                for _, piece in _pieces(_dataset(file, path, tensor), path):
                    hashed.update(_octets(piece))
                _check(hashed.hexdigest(), path, tensor)

    READERS.run(read)


def value(path: Path, tensor: StagedTensor, selection: Any) -> Any:
    """A part of one tensor, or with ``...`` all of it, which is not checked.

    Raises:
        StagedFileGone: The file is not there any more.
        TransferFailed: It is not what the result told of.
        Cancelled: This is a daemon thread, and the program ends.
    """

    def read() -> Any:
        with opened(path) as file:
            dataset = _dataset(file, path, tensor)
            if tensor.dtype in (BYTES, JSON):
                whole = _as_told(tensor, np.asarray(dataset[()]))
                return whole[selection] if tensor.dtype == BYTES else whole
            with _readable(path):
                return np.asarray(dataset[selection]).view(dtype_named(tensor.dtype))

    return READERS.run(read)


def _load(file: h5py.File, path: Path, tensor: StagedTensor) -> Any:
    dataset = _dataset(file, path, tensor)
    with _readable(path):
        array = np.empty(dataset.shape, dataset.dtype)
    hashed = hashlib.sha256()
    for where, piece in _pieces(dataset, path, into=lambda where: array[where]):
        hashed.update(_octets(piece))
        if piece.base is not array:
            array[where] = piece
    _check(hashed.hexdigest(), path, tensor)
    return _as_told(tensor, array)


def _dataset(file: h5py.File, path: Path, tensor: StagedTensor) -> h5py.Dataset:
    found = file.get(tensor.path)
    if not isinstance(found, h5py.Dataset):
        raise TransferFailed(f"{path}: there is no data set {tensor.path}: it is not the file that the result tells of")
    if tensor.dtype not in (BYTES, JSON) and found.shape != tensor.shape:
        raise TransferFailed(
            f"{path}#{tensor.path}: its shape is {found.shape}, and the result tells of {tensor.shape}"
        )
    return found


def _pieces(
    dataset: h5py.Dataset, path: Path, into: Callable[[Any], Array] | None = None
) -> Iterator[tuple[Any, Array]]:
    """A data set in C order, in pieces that hold whole chunks; each is read into what ``into`` gives for its place."""
    if not dataset.ndim or not dataset.size:
        with _readable(path):
            yield (), np.asarray(dataset[()])
        return
    steps = list(dataset.chunks or dataset.shape)
    axis = next((axis for axis, step in enumerate(steps) if step > 1), len(steps) - 1)
    rows = dataset.dtype.itemsize * math.prod(steps) // steps[axis]
    steps[axis] = steps[axis] * max(1, PIECE_BYTES // (rows * steps[axis]))
    places = (range(0, length, step) for length, step in zip(dataset.shape, steps, strict=True))
    for first in itertools.product(*places):
        READERS.go_on()
        where = tuple(slice(start, start + step) for start, step in zip(first, steps, strict=True))
        with _readable(path):
            if into is None:
                yield where, np.asarray(dataset[where])
            else:
                piece = into(where)
                if piece.flags.c_contiguous:
                    dataset.read_direct(piece, where)
                else:
                    piece = np.asarray(dataset[where])
                yield where, piece


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise TransferFailed(f"the result's file {path} cannot be read: {error}") from error


def _octets(piece: Array) -> Any:
    return np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data if piece.size else b""


def _check(digest: str, path: Path, tensor: StagedTensor) -> None:
    if digest != tensor.sha256:
        raise TransferFailed(
            f"{path}#{tensor.path}: its sha256 is {digest[:12]}…, and the result tells of {tensor.sha256[:12]}…: it is "
            "damaged, or another file; call again"
        )


def _as_told(tensor: StagedTensor, array: Array) -> Any:
    if tensor.dtype == JSON:
        return decode_json(tensor.name, array.tobytes())
    if tensor.dtype == BYTES:
        return decode_elements(tensor.name, tensor.shape, math.prod(tensor.shape), array.tobytes())
    return array.view(dtype_named(tensor.dtype))
