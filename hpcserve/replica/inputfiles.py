"""What an ``.npy`` or HDF5 file holds: told from its header first, then read, and never more than is allowed.

The files are whatever a caller has written, and the replica that reads them serves others too. So nothing in a file is
believed: what it says of its size is compared with what may be read before memory is taken for it, and whatever the
parsers of numpy and HDF5 raise is this one request's error. HDF5 inflates a chunk whole, whatever it is said to hold:
chunks that could become too large are counted first.

Which file is read, :mod:`hpcserve.replica.references` decides.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hpcserve.errors import InvalidInput, PermissionDenied
from hpcserve.replica.hdf5 import chunk_shape
from hpcserve.wire.dtype_names import BYTES, JSON, MAX_AXES
from hpcserve.wire.dtypes import native_name
from hpcserve.wire.elements import encode_elements
from hpcserve.wire.staged import stored_as
from hpcserve.wire.tensor import Frame

if TYPE_CHECKING:
    import h5py

MOST_LINKS = 16
HEADER_BYTES = 16384
"""Of an ``.npy`` file at most so much is looked at for its header; numpy itself takes headers of 10000."""
INFLATED = 1032
"""One byte of a deflate stream becomes at most so many. Source: zlib's technical details."""
PIECE_BYTES = 1 << 20
AT_ONCE_BYTES = 64 << 20
"""Between two reads of so much it is asked whether there is still time for more."""
CHUNKS_AT_ONCE = 4096
"""Reading so many takes about 16 MiB beside what is read: HDF5 2.0 keeps 3.7 KiB for each chunk that it reads."""
MOST_CHUNKS = 1 << 20
MOST_TEXT_PIECES = 200_000
"""Each takes 60 µs."""
CHECKSUM_BYTES = 4
"""What the filter Fletcher32 adds to a chunk."""
_LENGTH_BYTES = 4
_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
LZF_INFLATED = 132
"""264 bytes are the longest match, and take two or three. Source: liblzf, lzf_d.c."""

Array = npt.NDArray[Any]
OnTime = Callable[[], None]


class Found(NamedTuple):
    """A tensor in a file: what it is, and what reads it.

    ``read`` is given how many bytes the frame may have, and what raises when it is too late for more.
    """

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[int, OnTime], Frame]


@contextlib.contextmanager
def found(descriptor: int, path: str, dataset: str, most_bytes: int) -> Iterator[Found]:
    """The tensor in an open file, which can be read while the context lasts.

    Args:
        descriptor: The open file; left open.
        path: Its name, for messages and for what kind it is.
        dataset: The path of the data set in it; empty: the only one.
        most_bytes: A larger one is not read.

    Raises:
        InvalidInput: There is nothing that could be an input, or too much.
        PermissionDenied: The file leads to others.
        ImportError: It is HDF5, and there is no h5py.
    """
    if path.endswith(".npy") and not dataset:
        with open(os.dup(descriptor), "rb") as plain:
            yield _in_npy(plain, path, most_bytes)
        return
    import h5py

    with h5py.File(f"/proc/self/fd/{descriptor}", "r", locking=False) as file:
        yield _in_hdf5(_dataset(file, path, dataset), f"{path}#{dataset}", most_bytes, os.fstat(descriptor).st_size)


def _in_npy(file: io.BufferedReader, path: str, most_bytes: int) -> Found:
    head = io.BytesIO(file.read(HEADER_BYTES))  # numpy believes what a file says of its header's length
    version = np.lib.format.read_magic(head)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise InvalidInput(f"reference {path}: an .npy file of version {version}; save it by numpy.save")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(head)
    if dtype.hasobject:
        raise InvalidInput(f"reference {path}: it holds Python objects, which are not read; save plain numbers")
    named = _named(dtype, path)
    size_bytes = _check_size(path, shape, dtype.itemsize, most_bytes)
    there = max(0, os.fstat(file.fileno()).st_size - head.tell())
    if there < size_bytes:
        raise InvalidInput(f"reference {path}: the file ends after {there} of {size_bytes} bytes")
    start = head.tell()

    def read(left: int, on_time: OnTime) -> Frame:
        _check_size(path, shape, dtype.itemsize, left)
        file.seek(start)
        array = np.empty(shape, dtype, order="F" if fortran else "C")
        filled = _fill(file, array, on_time) if array.size else 0
        if filled != array.nbytes:
            raise InvalidInput(f"reference {path}: the file ends after {filled} of {array.nbytes} bytes")
        return _octets(_native(array))

    return Found(named, shape, read)


def _fill(file: io.BufferedReader, array: Array, on_time: OnTime) -> int:
    """Reads an array's bytes as they lie in memory; how many there were."""
    octets = array.reshape(-1, order="A").view(np.uint8).data
    filled = 0
    while filled < len(octets):
        on_time()
        more = file.readinto(octets[filled : filled + AT_ONCE_BYTES])
        if not more:
            break
        filled += more
    return filled


def _in_hdf5(dataset: h5py.Dataset, what: str, most_bytes: int, file_bytes: int) -> Found:
    import h5py

    if dataset.external is not None or dataset.is_virtual:
        raise PermissionDenied(f"reference {what}: its data are in other files; copy them into this one")
    shape, dtype = dataset.shape, dataset.dtype
    if shape is None:
        raise InvalidInput(f"reference {what}: it has a null data space, so there is nothing in it")
    _check_size(what, shape, dtype.itemsize, most_bytes)
    if h5py.check_string_dtype(dtype) is not None:
        return Found(BYTES, shape, lambda left, on_time: _texts(dataset, what, left, file_bytes, on_time))
    if dtype.hasobject:
        raise InvalidInput(f"reference {what}: {dtype} cannot be an input; store plain numbers")
    staged = _staged(dataset)
    named, shown = staged or (_named(dtype, what), shape)

    def read(left: int, on_time: OnTime) -> Frame:
        _check_size(what, shape, dtype.itemsize, left)
        _check_chunks(dataset, what, left, on_time)
        array = np.empty(shape, dtype)
        if not array.ndim:
            array[()] = dataset[()]
        elif array.size:
            for where in _pieces(dataset):
                on_time()
                dataset.read_direct(array, where, where)
        return _octets(_native(array))

    return Found(named, shown, read)


def _pieces(dataset: h5py.Dataset) -> Iterator[tuple[slice, ...]]:
    """All of a data set, in pieces: of whole chunks, where it has such."""
    chunks, itemsize = dataset.chunks, dataset.dtype.itemsize
    if not chunks:
        return _blocks(dataset.shape, chunk_shape(dataset.shape, itemsize, AT_ONCE_BYTES))
    counts = tuple(-(-length // chunk) for length, chunk in zip(dataset.shape, chunks, strict=True))
    many = AT_ONCE_BYTES // (itemsize * math.prod(chunks))
    at_once = chunk_shape(counts, 1, max(1, min(CHUNKS_AT_ONCE, many)))
    return _blocks(dataset.shape, tuple(many * chunk for many, chunk in zip(at_once, chunks, strict=True)))


def _blocks(shape: tuple[int, ...], steps: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    for first in itertools.product(*(range(0, length, step) for length, step in zip(shape, steps, strict=True))):
        yield tuple(slice(start, start + step) for start, step in zip(first, steps, strict=True))


def _staged(dataset: h5py.Dataset) -> tuple[str, tuple[int, ...]] | None:
    """Dtype and shape of what :mod:`hpcserve.replica.hdf5` has stored as something else."""
    if not {"dtype", "shape"} <= dataset.attrs.keys():
        return None
    told, axes = dataset.attrs.get_id("dtype"), dataset.attrs.get_id("shape")
    if told.shape != () or axes.dtype.kind not in "iu" or len(axes.shape or ()) != 1 or axes.shape[0] > MAX_AXES:
        return None  # not read at all: an attribute may be as large as one likes
    dtype = dataset.attrs["dtype"]
    if not isinstance(dtype, str) or stored_as(dtype) != _in_native_order(dataset.dtype).name:
        return None
    shape = tuple(int(axis) for axis in dataset.attrs["shape"])
    fits = len(dataset.shape) == 1 and (dtype == BYTES or shape == ())
    return (dtype, shape) if (fits if dtype in (BYTES, JSON) else shape == dataset.shape) else None


def _texts(dataset: h5py.Dataset, what: str, most_bytes: int, file_bytes: int, on_time: OnTime) -> bytes:
    """Text as it travels, read in pieces: any number of elements may be one and the same long one in the file."""
    _check_size(what, dataset.shape, _LENGTH_BYTES, most_bytes)
    _check_chunks(dataset, what, most_bytes, on_time)
    if not math.prod(dataset.shape):
        return b""
    at_once = min(CHUNKS_AT_ONCE, max(1, most_bytes // max(1, file_bytes)))  # none is longer than the file
    steps = chunk_shape(dataset.shape, 1, at_once)
    if math.prod(-(-length // step) for length, step in zip(dataset.shape, steps, strict=True)) > MOST_TEXT_PIECES:
        raise InvalidInput(
            f"reference {what}: {math.prod(dataset.shape)} texts in a file of {file_bytes} bytes would be read in more "
            f"than {MOST_TEXT_PIECES} pieces; store them in smaller files, or refer to less"
        )
    parts, left = [], most_bytes
    for where in _blocks(dataset.shape, steps):
        on_time()
        parts.append(encode_elements(what, np.asarray(dataset[where], dtype=object)))
        left -= len(parts[-1])
        if left < 0:
            raise _too_much(what, f"more than {most_bytes}", most_bytes)
    return b"".join(parts)


def _check_chunks(dataset: h5py.Dataset, what: str, most_bytes: int, on_time: OnTime) -> None:
    """HDF5 reads each chunk whole, however little of it there is in the data set, and inflates all that comes."""
    if not dataset.chunks:
        return
    plain = dataset.id.get_type().get_size() * math.prod(dataset.chunks)
    if plain > most_bytes:
        raise _too_much(what, f"chunks of {plain}", most_bytes)
    count = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    if count > MOST_CHUNKS:
        raise InvalidInput(
            f"reference {what}: it has {count} chunks, and at most {MOST_CHUNKS} are read; write it with larger ones"
        )
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    packing = [each for each in filters if each not in (_SHUFFLE, _FLETCHER32)]
    if not packing:
        return
    if packing not in ([_DEFLATE], [_LZF]):
        raise InvalidInput(
            f"reference {what}: its chunks pass through filters {filters}; write it with compression='gzip', or none"
        )
    grows = INFLATED if packing == [_DEFLATE] else LZF_INFLATED
    suspects: list[tuple[int, ...]] = []

    def look(chunk: Any) -> None:
        if chunk.size > plain + plain // 8 + PIECE_BYTES:
            raise _too_much(what, f"a chunk of {chunk.size}, for {plain}", most_bytes)
        if chunk.size * grows > max(most_bytes, plain) and not chunk.filter_mask & 1 << filters.index(packing[0]):
            suspects.append(chunk.chunk_offset)

    dataset.id.chunk_iter(look)
    most = plain + CHECKSUM_BYTES
    for offset in suspects:
        on_time()
        if packing == [_LZF] or _inflated(dataset.id.read_direct_chunk(offset)[1], most) > most:
            raise _too_much(what, f"a chunk that may inflate to more than {plain}", most_bytes)


def _inflated(packed: bytes, most_bytes: int) -> int:
    """How many bytes a deflate stream becomes; counted until they are more than ``most_bytes``."""
    stream, size_bytes, rest = zlib.decompressobj(), 0, packed
    while rest and not stream.eof and size_bytes <= most_bytes:
        size_bytes += len(stream.decompress(rest, PIECE_BYTES))
        rest = stream.unconsumed_tail
    return size_bytes


def _dataset(file: h5py.File, path: str, wanted: str) -> h5py.Dataset:
    import h5py

    if not wanted:
        names = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        if len(names) != 1:
            listed = ", ".join(sorted(names)[:MOST_LINKS]) or "none"
            raise InvalidInput(f"reference {path}: name one data set by #/NAME; it has: {listed}")
        wanted = names[0]
    here: Any = file
    left = [each for each in reversed(wanted.split("/")) if each not in ("", ".")]
    links = 0
    while left:
        name = left.pop()
        link = here.get(name, getlink=True) if isinstance(here, h5py.Group) else None
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > MOST_LINKS:
                raise InvalidInput(f"reference {path}#{wanted}: more than {MOST_LINKS} links one after the other")
            here = file if link.path.startswith("/") else here
            left += [each for each in reversed(link.path.split("/")) if each not in ("", ".")]
        elif isinstance(link, h5py.HardLink):
            here = here[name]
        elif link is None:
            raise InvalidInput(f"reference {path}#{wanted}: there is no {name!r} in it")
        else:
            raise PermissionDenied(f"reference {path}#{wanted}: {name!r} is a link to another file; name that file")
    if not isinstance(here, h5py.Dataset):
        raise InvalidInput(f"reference {path}#{wanted}: it is no data set")
    return here


def _named(dtype: np.dtype[Any], what: str) -> str:
    named = native_name(_in_native_order(dtype))
    if named is None:
        raise InvalidInput(f"reference {what}: dtype {dtype} cannot be an input; convert it")
    return named


def _in_native_order(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _native(array: Array) -> Array:
    return array if array.dtype.isnative else array.astype(_in_native_order(array.dtype))


def _octets(array: Array) -> Frame:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b""


def _check_size(what: str, shape: tuple[int, ...], itemsize: int, most_bytes: int) -> int:
    """How many bytes an array takes."""
    if len(shape) > MAX_AXES or any(axis < 0 for axis in shape):
        raise InvalidInput(f"reference {what}: shape {shape}: at most {MAX_AXES} axes, none of them negative, are read")
    if not itemsize:
        raise InvalidInput(f"reference {what}: its elements have no bytes, so there is nothing to read; convert it")
    size_bytes = itemsize * math.prod(shape)
    if size_bytes > most_bytes:
        raise _too_much(what, str(size_bytes), most_bytes)
    return size_bytes


def _too_much(what: str, found_bytes: str, most_bytes: int) -> InvalidInput:
    return InvalidInput(
        f"reference {what}: it has {found_bytes} bytes, and {most_bytes} may still be read for this request "
        "(staging.reference_bytes); refer to less"
    )
