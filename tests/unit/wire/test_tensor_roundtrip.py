"""What goes through pack and unpack comes out the same, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hpcserve.wire.dtype_names import ML_DTYPES
from hpcserve.wire.dtypes import DTYPES, dtype_named
from hpcserve.wire.tensor import COPY_BELOW_BYTES, Json, pack, signature, unpack

SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)
NUMERIC = [*DTYPES, *ML_DTYPES]
WIDE = [name for name, dtype in DTYPES.items() if dtype.itemsize > 1]
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: number != 0)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def sent(value: Any, *, writable: bool = False) -> Any:
    specs, frames = pack({"x": value})
    return unpack(specs, [bytes(frame) for frame in frames], writable=writable)["x"]


def bits(array: np.ndarray) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes() if array.dtype.kind != "V" else array.tobytes()


def assert_same(received: np.ndarray, original: np.ndarray) -> None:
    assert received.shape == original.shape
    assert received.dtype == original.dtype.newbyteorder("<")
    assert received.flags.c_contiguous
    assert received.flags.aligned
    assert bits(received) == bits(original)


@st.composite
def any_bits(draw: st.DrawFn, names: list[str]) -> np.ndarray:
    """An array whose bits are drawn, so NaNs have payloads and both signs. bool holds 0 and 1 only."""
    dtype = dtype_named(draw(st.sampled_from(names)))
    shape = draw(SHAPES)
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    octets = np.frombuffer(draw(st.binary(min_size=size_bytes, max_size=size_bytes)), np.uint8)
    if dtype == np.bool_:
        octets = octets % 2
    return octets.view(dtype).reshape(shape) if size_bytes else np.zeros(shape, dtype)


@pytest.mark.parametrize("name", NUMERIC)
def test_every_dtype_has_its_name_on_the_wire(name: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype_named(name))
    specs, frames = pack({"x": array})
    assert msgspec.msgpack.decode(specs) == [["x", name, [2, 3]]]
    assert [bytes(frame) for frame in frames] == [array.tobytes()]
    assert_same(unpack(specs, frames)["x"], array)


@given(any_bits(NUMERIC))
def test_every_bit_survives(array: np.ndarray) -> None:
    assert_same(sent(array), array)


@given(any_bits(WIDE))
def test_big_endian_arrives_little_endian_with_the_same_bits(array: np.ndarray) -> None:
    big = array.astype(array.dtype.newbyteorder(">"))
    assert_same(sent(big), array)


@given(st.data(), any_bits(NUMERIC))
def test_strided_and_transposed_views_arrive_contiguous(data: st.DataObject, array: np.ndarray) -> None:
    view = array[data.draw(hnp.basic_indices(array.shape))] if array.ndim else array
    view = np.asarray(view).T
    view.flags.writeable = False
    assert_same(sent(view), view)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("step", [1, 2, -1])
def test_arrays_too_large_to_be_copied_in_passing(order: str, step: int) -> None:
    array = np.asarray(np.arange(40_000, dtype=np.int32).reshape(200, 200), order=order)[::step]  # type: ignore[call-overload]
    assert array.nbytes >= COPY_BELOW_BYTES
    assert_same(sent(array), array)


@pytest.mark.parametrize("name", ["float32", "float16", "complex128", "bfloat16", "float8_e4m3fn"])
def test_a_large_contiguous_array_is_not_copied(name: str) -> None:
    array = np.zeros(COPY_BELOW_BYTES, dtype_named(name))
    specs, (frame,) = pack({"x": array})
    assert isinstance(frame, memoryview)
    assert frame.nbytes == array.nbytes
    assert np.shares_memory(np.frombuffer(frame, np.uint8), array)
    assert np.shares_memory(unpack(specs, [frame])["x"], array)


def test_a_small_array_may_be_changed_once_it_is_packed() -> None:
    array = np.zeros(4, np.float32)
    specs, frames = pack({"x": array})
    array[:] = 1
    assert unpack(specs, frames)["x"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("value", [np.zeros(8, np.float64), np.ones(8, np.bool_), np.zeros((0, 3), np.int8)])
def test_arrays_are_writable_only_on_demand(value: np.ndarray) -> None:
    assert not sent(value).flags.writeable
    wanted = sent(value, writable=True)
    assert wanted.flags.writeable
    assert_same(wanted, value)


def test_writable_frames_need_no_copy() -> None:
    specs, frames = pack({"x": np.zeros(8)})
    frame = bytearray(frames[0])
    assert np.shares_memory(unpack(specs, [frame], writable=True)["x"], np.frombuffer(frame, np.uint8))


def test_frames_of_zeromq_are_taken_as_they_are() -> None:
    array = np.arange(1000, dtype=np.int16)
    specs, frames = pack({"x": array})
    frame = zmq.Frame(frames[0])
    assert_same(unpack(specs, [frame.buffer])["x"], array)


def test_an_unaligned_frame_is_copied_to_an_aligned_array() -> None:
    specs, frames = pack({"x": np.arange(8, dtype=np.float64)})
    shifted = memoryview(b"-" + bytes(frames[0]))[1:]
    received = unpack(specs, [shifted])["x"]
    assert received.flags.aligned
    assert received.tolist() == list(range(8))


def test_order_names_and_scalars() -> None:
    specs, frames = pack({"b": 1, "a": 2.5, "": True, "ü": [1 + 2j], "u": 2**64 - 1, "np": np.float32(3)})
    assert signature(specs) == (
        ("b", "int64", ()),
        ("a", "float64", ()),
        ("", "bool", ()),
        ("ü", "complex128", (1,)),
        ("u", "uint64", ()),
        ("np", "float32", ()),
    )
    assert {name: array.tolist() for name, array in unpack(specs, frames).items()} == {
        "b": 1,
        "a": 2.5,
        "": True,
        "ü": [1 + 2j],
        "u": 2**64 - 1,
        "np": 3,
    }


def test_no_tensors() -> None:
    specs, frames = pack({})
    assert (bytes(specs), frames, unpack(specs, frames)) == (b"\x90", [], {})


def test_equal_specs_of_different_dtypes_are_not_confused() -> None:
    for dtype in (np.int32, np.float32, np.uint32, np.int32):
        assert sent(np.ones(2, dtype)).dtype == dtype


@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=20)))
def test_bytes_elements(array: np.ndarray) -> None:
    specs, frames = pack({"x": array})
    assert signature(specs) == (("x", "BYTES", array.shape),)
    received = unpack(specs, frames)["x"]
    assert received.dtype == object
    assert received.shape == array.shape
    assert received.tolist() == array.tolist()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_text_is_sent_as_utf8(texts: list[str]) -> None:
    array = np.empty(len(texts), object)
    array[:] = texts
    assert sent(array).tolist() == [text.encode() for text in texts]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"a\0", b"a\0"),
        ("é", "é".encode()),
        ("", b""),
        (["a", "bc"], [b"a", b"bc"]),
        ([b"a\0", b""], [b"a\0", b""]),
        ([["a"], ["b"]], [[b"a"], [b"b"]]),
        (np.array(["a", "éé"]), [b"a", "éé".encode()]),
        (np.array([b"a", b"bc"]), [b"a", b"bc"]),
        (np.array(["a", "éé"]).astype(">U2"), [b"a", "éé".encode()]),
        (np.array(["one", "two"])[::-1], [b"two", b"one"]),
        (np.bytes_(b"x"), b"x"),
        (np.array([["a", "b"], ["c", "d"]], order="F"), [[b"a", b"b"], [b"c", b"d"]]),
    ],
)
def test_text_and_bytes_in_every_dress(value: Any, expected: Any) -> None:
    assert sent(value).tolist() == expected


def test_bytes_are_laid_out_as_in_the_open_inference_protocol() -> None:
    _, frames = pack({"x": [b"ab", b"", b"\0"]})
    assert frames == [b"\x02\0\0\0ab" + b"\0\0\0\0" + b"\x01\0\0\0\0"]


@given(JSON_VALUES)
def test_json_values(value: Any) -> None:
    specs, frames = pack({"x": Json(value)})
    assert signature(specs) == (("x", "JSON", ()),)
    received = unpack(specs, frames)["x"]
    assert received == value
    assert type(received) is type(value)


def test_ml_dtypes_is_not_imported_before_it_is_needed() -> None:
    program = (
        "import sys, numpy as np; from hpcserve.wire.tensor import pack, unpack\n"
        "unpack(*pack({'x': np.ones(3)}))\n"
        "assert 'ml_dtypes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_float8_and_bfloat16_are_those_of_ml_dtypes() -> None:
    for name in ML_DTYPES:
        assert dtype_named(name) == np.dtype(getattr(ml_dtypes, name))
        assert dtype_named(name).itemsize == ML_DTYPES[name]
