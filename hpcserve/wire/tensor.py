"""Arrays to frames and back, without a copy where memory allows it.

One tensor is a :class:`~hpcserve.wire.messages.TensorSpec` in the header and one frame. Decides what the
bytes of a frame mean; whether a method wants such a tensor is decided elsewhere. Never pickles.

Both directions run once per call, so what depends on names, dtypes and shapes alone is remembered.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from hpcserve.errors import InvalidInput, ProtocolError
from hpcserve.wire.dtype_names import BYTES, JSON, MAX_AXES, REFERENCE
from hpcserve.wire.dtypes import Dtype, advice, dtype_named, native_name
from hpcserve.wire.elements import decode_elements, encode_elements
from hpcserve.wire.frames import MAX_HEADER_BYTES, MAX_TENSORS, decoder, encode
from hpcserve.wire.jsonvalue import Json, decode_json, encode_json
from hpcserve.wire.messages import TensorSpec
from hpcserve.wire.reference import Reference

__all__ = ["Json", "pack", "signature", "unpack"]

"""Most axes of one tensor: what every numpy release can hold."""

COPY_BELOW_BYTES = 16384
"""A smaller array is copied into its frame, which costs less than a view of it."""

REMEMBERED = 512
"""How many sets of tensors each direction remembers."""

REMEMBERED_BYTES = 1024
"""Longer specs are parsed each time, so that what is remembered stays below a few MiB."""

MAX_EXTENT_BYTES = (1 << 63) - 1

Signature = tuple[tuple[str, str, tuple[int, ...]], ...]
"""``(name, dtype, shape)`` of each tensor, in order."""

Frame = bytes | bytearray | memoryview
_decode_specs = decoder(tuple[TensorSpec, ...])


class _Slot(NamedTuple):
    """What one frame must hold. ``special`` is empty for dtypes whose every bit pattern is a value."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    elements: int
    size_bytes: int
    special: str


class _Plan(NamedTuple):
    signature: Signature
    slots: tuple[_Slot, ...]


# --- to the wire --------------------------------------------------------------------------------------


def pack(tensors: Mapping[str, npt.ArrayLike | Json | Reference]) -> tuple[msgspec.Raw, list[Frame]]:
    """The specs for a header's ``tensors``, and one frame for each tensor.

    A frame of a large contiguous array is a view of it: leave the array alone until the frame is sent.
    Big-endian arrays are converted, strided ones made contiguous. Arrays and nested lists of bytes and text
    become BYTES (numpy's 'S' dtype has already dropped trailing NULs; lists and object arrays keep them).

    Args:
        tensors: An array, anything that numpy makes an array of, or :class:`Json`, by name.

    Raises:
        InvalidInput: Something cannot travel; the message names the tensor and says what to convert it to.
    """
    key: list[tuple[str, str, tuple[int, ...]]] = []
    frames: list[Frame] = []
    value: Any
    for name, value in tensors.items():
        dtype = native_name(value.dtype) if type(value) is np.ndarray else None
        if dtype is None:
            dtype, shape, frame = _convert(name, value)
        else:
            shape, frame = value.shape, _frame(value)
        key.append((name, dtype, shape))
        frames.append(frame)
    return _encode_specs(tuple(key)), frames


def _frame(array: npt.NDArray[Any]) -> Frame:
    if array.nbytes < COPY_BELOW_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _convert(name: str, value: Any) -> tuple[str, tuple[int, ...], Frame]:
    """dtype, shape and frame of what is not an array of a dtype that travels as it is."""
    if isinstance(value, Json):
        return JSON, (), encode_json(name, value.value)
    if isinstance(value, Reference):
        return REFERENCE, (), value.uri.encode()
    array = _as_array(name, value)
    if array.dtype.kind in "SUTO":
        return BYTES, array.shape, encode_elements(name, array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("<"))
    dtype = native_name(array.dtype)
    if dtype is None:
        raise InvalidInput(f"tensor {name!r}: dtype {array.dtype} cannot travel; {advice(array.dtype)}")
    return dtype, array.shape, _frame(array)


def _as_array(name: str, value: Any) -> npt.NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidInput(f"tensor {name!r}: a masked array cannot travel; use .filled(...), or send the mask too")
    try:
        array = np.asarray(value)
        # From a list numpy would make 'S' and drop trailing NULs, or turn numbers among text into text.
        if array.dtype.kind in "SU" and not isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value, dtype=object)
    except Exception as error:  # __array__ is foreign code and raises what it likes
        raise InvalidInput(
            f"tensor {name!r}: numpy makes no array of this {type(value).__name__}: {error}; convert it to an array"
        ) from error
    return array


@functools.lru_cache(maxsize=REMEMBERED)
def _encode_specs(key: Signature) -> msgspec.Raw:
    if len(key) > MAX_TENSORS:
        raise InvalidInput(f"{len(key)} tensors in one message: at most {MAX_TENSORS} are allowed; stack some of them")
    for name, _, shape in key:
        if not isinstance(name, str):
            raise InvalidInput(f"tensor {name!r}: a tensor's name is text, got {type(name).__name__}")
        if len(shape) > MAX_AXES:
            raise InvalidInput(f"tensor {name!r} has {len(shape)} axes: at most {MAX_AXES} are allowed; reshape it")
    try:
        # A subclass of str, such as numpy's, is text too, but msgspec takes none.
        specs = encode([(str.__str__(name), dtype, shape) for name, dtype, shape in key])
    except UnicodeEncodeError as error:
        raise InvalidInput(f"a tensor's name is not valid Unicode: {error}; rename it") from error
    if len(specs) > MAX_HEADER_BYTES:
        raise InvalidInput(
            f"the tensors' names take {len(specs)} bytes: a header holds {MAX_HEADER_BYTES}; shorten them"
        )
    return msgspec.Raw(specs)


# --- from the wire ------------------------------------------------------------------------------------


def unpack(
    specs: msgspec.Raw, frames: Sequence[Frame], *, writable: bool = False, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """The tensors of a message by name: arrays, and Python values where the dtype is JSON.

    An array is a view of its frame, read-only where the frame is, unless the frame's memory is not aligned
    for the dtype: then it is a copy. BYTES arrive as an object array of bytes.

    Args:
        specs: The ``tensors`` of the header.
        frames: The frames after the header: bytes, or contiguous memoryviews (``zmq.Frame.buffer``).
        writable: Copy arrays whose frame is read-only.
        names: What the tensors are called in the result, in order, instead of what the specs call them.

    Raises:
        ProtocolError: The specs are malformed, or the frames are not what they say.
        InvalidInput: A dtype needs the package ``ml_dtypes``, which is missing here.
    """
    slots = _plan(specs).slots
    if len(slots) != len(frames):
        raise ProtocolError(f"{len(frames)} tensor frames follow a header that describes {len(slots)} tensors")
    tensors: dict[str, Any] = {}
    for index, slot in enumerate(slots):
        name, dtype, shape, _, size_bytes, special = slot
        frame = frames[index]
        if special:
            value = _read_special(slot, frame, writable=writable)
        elif writable and type(frame) is bytes and len(frame) == size_bytes < COPY_BELOW_BYTES:
            value = np.ndarray(shape, dtype, bytearray(frame))  # aligned, and half the price of numpy's copy
        else:
            value = _read(slot, frame, writable=writable)
        tensors[name if names is None else names[index]] = value
    return tensors


def signature(specs: msgspec.Raw) -> Signature:
    """Name, dtype and shape of each tensor, validated, without a look at the frames.

    Raises:
        ProtocolError: The specs are malformed.
        InvalidInput: A dtype needs the package ``ml_dtypes``, which is missing here.
    """
    return _plan(specs).signature


def _read(slot: _Slot, frame: Frame, *, writable: bool) -> npt.NDArray[Any]:
    view = memoryview(frame)
    if view.nbytes != slot.size_bytes:
        raise _wrong_size(slot, view.nbytes)
    array: npt.NDArray[Any] = np.ndarray(slot.shape, slot.dtype, view)
    must_copy = (writable and view.readonly) or not array.flags.aligned
    return array.copy() if must_copy else array


def _read_special(slot: _Slot, frame: Frame, *, writable: bool) -> Any:
    if slot.special == JSON:
        return decode_json(slot.name, frame)
    if slot.special == BYTES:
        return decode_elements(slot.name, slot.shape, slot.elements, frame)
    view = memoryview(frame)
    if view.nbytes != slot.size_bytes:
        raise _wrong_size(slot, view.nbytes)
    octets: npt.NDArray[Any] = np.ndarray(slot.shape, np.uint8, view)
    if octets.size and octets.max() > 1:
        raise ProtocolError(f"tensor {slot.name!r}: an element of dtype bool is {octets.max()}, expected 0 or 1")
    array = octets.view(np.bool_)
    return array.copy() if writable and view.readonly else array


def _wrong_size(slot: _Slot, size_bytes: int) -> ProtocolError:
    return ProtocolError(
        f"tensor {slot.name!r}: {slot.dtype.name}{list(slot.shape)} takes {slot.size_bytes} bytes, "
        f"its frame has {size_bytes}"
    )


def _plan(specs: msgspec.Raw) -> _Plan:
    content = bytes(specs)
    return _known_plan(content) if len(content) <= REMEMBERED_BYTES else _make_plan(content)


def _make_plan(content: bytes) -> _Plan:
    described = _decode_specs(content)
    if len(described) > MAX_TENSORS:
        raise ProtocolError(f"{len(described)} tensors in one message: at most {MAX_TENSORS} are allowed")
    slots = tuple(_slot(spec) for spec in described)
    names = [slot.name for slot in slots]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ProtocolError(f"tensor {twice!r} is described twice")
    return _Plan(tuple((spec.name, spec.dtype, spec.shape) for spec in described), slots)


_known_plan = functools.lru_cache(maxsize=REMEMBERED)(_make_plan)


def _slot(spec: TensorSpec) -> _Slot:
    name, shape = spec.name, spec.shape
    if len(shape) > MAX_AXES:
        raise ProtocolError(f"tensor {name!r} has {len(shape)} axes: at most {MAX_AXES} are allowed")
    if any(axis < 0 for axis in shape):
        raise ProtocolError(f"tensor {name!r}: shape {list(shape)} has a negative axis")
    if spec.dtype == JSON and shape:
        raise ProtocolError(f"tensor {name!r}: a JSON tensor has shape [], got {list(shape)}")
    dtype = dtype_named(spec.dtype)
    # numpy counts the other axes even where one is 0, and would overflow.
    if math.prod(axis or 1 for axis in shape) * dtype.itemsize > MAX_EXTENT_BYTES:
        raise ProtocolError(f"tensor {name!r}: shape {list(shape)} is larger than any memory")
    count = math.prod(shape)
    special = spec.dtype if spec.dtype in (BYTES, JSON, "bool") else ""
    return _Slot(name, dtype, shape, count, count * dtype.itemsize, special)
