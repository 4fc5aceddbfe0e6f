"""Writes a result into an HDF5 file, chunk by chunk, never whole in memory a second time.

HDF5 compresses on the thread that writes, at 20 to 100 MB/s. So chunks are compressed here, on threads, by the same
filters that HDF5 would have used (shuffle, then deflate), and handed to it as they are to lie in the file; every HDF5
reads them. A chunk that gains little is left as it is, and HDF5 told so by its filter mask; then the next ones are not
even tried. A chunk of zeros is not written: that is what HDF5 reads where there is none. Hashing is one more thread.

Source: HDF5 user guide, H5Dwrite_chunk; the filter mask has bit n set where filter n was left out.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import zlib
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hpcserve.errors import InvalidInput
from hpcserve.wire.dtype_names import BYTES, JSON
from hpcserve.wire.dtypes import native_name
from hpcserve.wire.elements import encode_elements
from hpcserve.wire.jsonvalue import Json, encode_json
from hpcserve.wire.messages import StagedTensor
from hpcserve.wire.staged import FORMAT, dataset_of, stored_as

if TYPE_CHECKING:
    import h5py

Array = npt.NDArray[Any]

LEVEL = 1
GAIN = 0.75
"""A chunk is kept compressed if it takes at most this part of its bytes."""
MOST_SKIPPED = 64
"""So many chunks at most are not even tried after one that gained little."""
ALL_FILTERS, NO_FILTER_LEFT_OUT = 0b11, 0
_NOTHING_WRITTEN = None


class Tensor(NamedTuple):
    """An output as it is to lie in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: Array


def tensors_of(outputs: Mapping[str, Any]) -> list[Tensor]:
    """The outputs of a method, as :func:`hpcserve.servable.outputs.collect` gives them.

    Raises:
        InvalidInput: One cannot travel.
    """
    return [_tensor(name, value) for name, value in outputs.items()]


def write(
    path: str, tensors: list[Tensor], about: Mapping[str, str], *, chunk_bytes: int, compress: bool
) -> tuple[StagedTensor, ...]:
    """Makes the file ``path`` anew.

    Args:
        path: The file.
        tensors: What to write.
        about: The attributes of the file.
        chunk_bytes: About so large its chunks are.
        compress: Whether they are compressed.

    Raises:
        OSError: It cannot be written.
        ImportError: There is no h5py.
    """
    import h5py

    threads = max(1, min(4, len(os.sched_getaffinity(0))))
    try:
        with (
            ThreadPoolExecutor(threads) as packing,
            ThreadPoolExecutor(1) as hashing,
            h5py.File(path, "w", locking=False) as file,  # nobody else has it, and some file systems have no locks
        ):
            file.attrs["hpcserve_format"] = FORMAT
            for name, text in about.items():
                file.attrs[name] = text
            work = Work(packing, hashing, 2 * threads)
            written = tuple(_write(file, each, work, chunk_bytes, compress=compress) for each in tensors)
            file.flush()
    except RuntimeError as error:  # h5py 3.16 says so what goes wrong while it closes a file
        raise OSError(str(error)) from error
    return written


class Work(NamedTuple):
    """The threads that compress, the one that hashes, and how many chunks may be on their way."""

    packing: ThreadPoolExecutor
    hashing: ThreadPoolExecutor
    ahead: int


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Json):
        return Tensor(name, JSON, (), np.frombuffer(encode_json(name, value.value), np.uint8))
    array = np.asanyarray(value)
    if array.dtype.kind in "SUTO":
        return Tensor(name, BYTES, array.shape, np.frombuffer(encode_elements(name, array), np.uint8))
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    dtype = native_name(array.dtype)
    if dtype is None:
        raise InvalidInput(f"output {name!r}: dtype {array.dtype} cannot travel; convert it")
    stored = stored_as(dtype)
    return Tensor(name, dtype, array.shape, array if stored is None else array.view(stored))


def _write(file: h5py.File, tensor: Tensor, work: Work, chunk_bytes: int, *, compress: bool) -> StagedTensor:
    path, array = dataset_of(tensor.name), tensor.stored
    if array.size and array.ndim:
        digest = _write_chunks(file, path, array, work, chunk_bytes, compress=compress)
    else:
        file.create_dataset(path, data=array)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
    attributes = file[path].attrs
    attributes["sha256"], attributes["dtype"] = digest, tensor.dtype
    attributes["shape"] = np.array(tensor.shape, np.int64)
    return StagedTensor(tensor.name, tensor.dtype, tensor.shape, path, digest)


def _write_chunks(file: h5py.File, path: str, array: Array, work: Work, chunk_bytes: int, *, compress: bool) -> str:
    shape = chunk_shape(array.shape, array.itemsize, chunk_bytes)
    options = {"compression": "gzip", "compression_opts": LEVEL, "shuffle": True} if compress else {}
    dataset = file.create_dataset(path, array.shape, array.dtype, chunks=shape, **options)
    hashed = hashlib.sha256()
    gain = Gain() if compress else None
    ahead: deque[tuple[tuple[int, ...], Future[Packed], Future[None]]] = deque()

    def land() -> None:
        offset, packing, hashing = ahead.popleft()
        hashing.result()
        packed = packing.result()
        if gain is not None and packed.tried:
            gain.learn(gained=packed.left_out == NO_FILTER_LEFT_OUT)
        if packed.content is not _NOTHING_WRITTEN:
            dataset.id.write_direct_chunk(offset, packed.content, packed.left_out if compress else 0)

    try:
        for offset in itertools.product(*(range(0, axis, step) for axis, step in zip(array.shape, shape, strict=True))):
            block = _block(array, offset, shape)
            try_it = gain is not None and gain.wants_try()
            hashing = work.hashing.submit(hashed.update, block.reshape(-1).view(np.uint8).data)
            ahead.append((offset, work.packing.submit(pack, block, shape, compress=try_it), hashing))
            if len(ahead) > work.ahead:
                land()
        while ahead:
            land()
    finally:  # the file may be full: what is on its way is not to be waited for in vain
        for _, packing, hashing in ahead:
            packing.cancel()
            hashing.cancel()
    return hashed.hexdigest()


def chunk_shape(shape: tuple[int, ...], itemsize: int, chunk_bytes: int) -> tuple[int, ...]:
    """The shape of chunks of at most about ``chunk_bytes``, each of which is one piece of the array in C order.

    An axis is parted evenly: HDF5 keeps the last chunk of each row whole, and what is over in it is written in vain.
    """
    left = max(1, chunk_bytes // itemsize)
    chunk = []
    for axis in reversed(shape):
        parts = -(-axis // left)
        chunk.append(-(-axis // parts))
        left = max(1, left // axis) if left >= axis else 1
    return tuple(reversed(chunk))


class Gain:
    """Whether compressing is worth a try: after each chunk that gained little, twice as many are left as they are."""

    def __init__(self) -> None:
        self._skip = 0
        self._left = 0

    def wants_try(self) -> bool:
        """Whether the next chunk is to be tried."""
        if self._left:
            self._left -= 1
            return False
        return True

    def learn(self, *, gained: bool) -> None:
        """What became of one that was tried."""
        self._skip = 0 if gained else min(MOST_SKIPPED, 2 * self._skip + 1)
        self._left = self._skip


class Packed(NamedTuple):
    """A chunk as it is to lie in the file; None: it need not. ``left_out``: the filter mask."""

    content: bytes | memoryview | None
    left_out: int
    tried: bool


def pack(block: Array, chunk: tuple[int, ...], *, compress: bool) -> Packed:
    """What HDF5 is to write of a block, which may be smaller than the chunk at the array's end."""
    if not _has_content(block):
        return Packed(_NOTHING_WRITTEN, 0, tried=False)
    if block.shape != chunk:
        whole = np.zeros(chunk, block.dtype)
        whole[tuple(slice(0, length) for length in block.shape)] = block
        block = whole
    octets = block.reshape(-1).view(np.uint8)
    if not compress:
        return Packed(octets.data, ALL_FILTERS, tried=False)
    if block.itemsize > 1:
        octets = np.ascontiguousarray(octets.reshape(-1, block.itemsize).T)
    packed = zlib.compress(octets.data, LEVEL)
    if len(packed) <= GAIN * block.nbytes:
        return Packed(packed, NO_FILTER_LEFT_OUT, tried=True)
    return Packed(block.reshape(-1).view(np.uint8).data, ALL_FILTERS, tried=True)


def _block(array: Array, offset: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    piece = array[tuple(slice(first, first + length) for first, length in zip(offset, shape, strict=True))]
    return np.ascontiguousarray(piece)


def _has_content(block: Array) -> bool:
    """Whether any bit is set: -0.0 is not zero here."""
    octets = block.reshape(-1).view(np.uint8)
    words = octets[: len(octets) // 8 * 8]
    return bool((words.size and words.view(np.uint64).max()) or octets[len(words) :].any())


def size_bytes(outputs: Mapping[str, Any]) -> int:
    """How large the outputs are as they travel, without making that of them; of text and JSON about."""
    return sum(_size(value) for value in outputs.values())


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return math.prod(value.shape) * int(value.dtype.itemsize)
    if isinstance(value, Json):
        return len(encode_json("", value.value))
    return sum(4 + len(each) for each in np.asarray(value, dtype=object).flat)
