"""What must not travel is refused with advice; what must not arrive is refused before it costs anything."""

from __future__ import annotations

import datetime as dt
import sys
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import InvalidInput, ProtocolError
from hpcserve.wire.dtype_names import MAX_AXES, NAMES
from hpcserve.wire.dtypes import dtype_named
from hpcserve.wire.frames import MAX_HEADER_BYTES, MAX_TENSORS
from hpcserve.wire.tensor import Json, pack, signature, unpack


def specs_of(*specs: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(list(specs)))


def loop() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Unwilling:
    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("on another device")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.zeros(2, np.longdouble), "float64"),
        (np.zeros(2, np.clongdouble), "complex128"),
        (np.zeros(2, "M8[s]"), "int64"),
        (np.zeros(2, "m8[s]"), "int64"),
        (np.zeros(2, "V3"), "bytes"),
        (np.zeros(2, [("a", "f4")]), "each field"),
        (np.zeros(2, [("a", ">f4")]), "each field"),
        (np.ma.masked_array([1, 2], [True, False]), "filled"),
        (np.array([1, "a"], object), "found int"),
        ([1, "a"], "found int"),
        (np.array([None]), "found NoneType"),
        (None, "Json"),
        ({"a": 1}, "Json"),
        ({1, 2}, "Json"),
        (2**70, "found int"),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "Json"),
        ([[1], [2, 3]], "list"),
        (["\ud800"], "Unicode"),
        (Unwilling(), "on another device"),
        (Json(float("nan")), "finite"),
        (Json([float("inf")]), "finite"),
        (Json(b"x"), "bytes"),
        (Json({(1, 2): 3}), "JSON holds"),
        (Json(np.float32(1)), ".item()"),
        (Json("\ud800"), "JSON holds"),
        (Json(loop()), "JSON holds"),
    ],
)
def test_what_cannot_travel_is_refused_with_advice(value: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match="tensor 'weights'") as caught:
        pack({"weights": value})
    assert told in caught.value.message


def test_names_that_cannot_travel() -> None:
    with pytest.raises(InvalidInput, match="a tensor's name is text, got int"):
        pack({1: np.zeros(1)})  # type: ignore[dict-item]
    with pytest.raises(InvalidInput, match="rename it"):
        pack({"\ud800": np.zeros(1)})
    with pytest.raises(InvalidInput, match="shorten"):
        pack({"x" * MAX_HEADER_BYTES: np.zeros(1)})


def test_limits_on_tensors_and_axes() -> None:
    full = {str(number): np.zeros(1) for number in range(MAX_TENSORS)}
    assert len(unpack(*pack(full))) == MAX_TENSORS
    with pytest.raises(InvalidInput, match=f"at most {MAX_TENSORS}"):
        pack({**full, "more": np.zeros(1)})
    deep = np.zeros((1,) * MAX_AXES)
    assert unpack(*pack({"x": deep}))["x"].shape == deep.shape
    with pytest.raises(ProtocolError, match=f"at most {MAX_AXES}"):
        signature(specs_of(["x", "int8", [1] * (MAX_AXES + 1)]))
    with pytest.raises(ProtocolError, match=f"at most {MAX_TENSORS}"):
        signature(specs_of(*([str(number), "int8", [1]] for number in range(MAX_TENSORS + 1))))
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        with pytest.raises(InvalidInput, match=f"at most {MAX_AXES}"):
            pack({"x": np.zeros((1,) * (MAX_AXES + 1))})


@pytest.mark.parametrize(
    ("specs", "frames", "told"),
    [
        ([["x", "int8", [2]]], [], "0 tensor frames follow a header that describes 1"),
        ([["x", "int8", [2]]], [b"ab", b""], "2 tensor frames"),
        ([], [b""], "1 tensor frames follow a header that describes 0"),
        ([["x", "int16", [2]]], [b"abc"], r"int16\[2\] takes 4 bytes, its frame has 3"),
        ([["x", "int16", [2]]], [b"abcde"], "its frame has 5"),
        ([["x", "bool", [2]]], [b"\0"], "its frame has 1"),
        ([["x", "bool", [2]]], [b"\0\x02"], "is 2, expected 0 or 1"),
        ([["x", "float64", []]], [b""], "takes 8 bytes"),
        ([["x", "float32", [-1]]], [b""], "negative axis"),
        ([["x", "float32", [-2, -2]]], [bytes(16)], "negative axis"),
        ([["x", "float32", [2**62, 2**62]]], [b""], "larger than any memory"),
        ([["x", "uint8", [2**63]]], [b""], "larger than any memory"),
        ([["x", "uint8", [2**64 - 1] * 32]], [b""], "larger than any memory"),
        ([["x", "uint8", [0, 2**64 - 1]]], [b""], "larger than any memory"),
        ([["x", "uint8", [2**40]]], [b""], "takes 1099511627776 bytes"),
        ([["x", "BYTES", [2**40]]], [b""], "cannot hold 1099511627776 elements"),
        ([["x", "BYTES", [2**62]]], [b""], "larger than any memory"),
        ([["x", "int8", [1]], ["x", "int8", [1]]], [b"a", b"b"], "'x' is described twice"),
        ([["x", "float", [1]]], [b"abcd"], "unknown dtype 'float'"),
        ([["x", "object", [1]]], [b"abcd"], "unknown dtype 'object'"),
        ([["x", "<f4", [1]]], [b"abcd"], "unknown dtype '<f4'"),
        ([["x", "Float32", [1]]], [b"abcd"], "unknown dtype 'Float32'"),
        ([["x", "BYTES", [1]]], [b""], "cannot hold 1 elements"),
        ([["x", "BYTES", [1]]], [b"\x02\0\0\0a"], "longer than the rest"),
        ([["x", "BYTES", [1]]], [b"\xff\xff\xff\xffa"], "longer than the rest"),
        ([["x", "BYTES", [2]]], [b"\x02\0\0\0ab\0\0"], "has no length"),
        ([["x", "BYTES", [1]]], [b"\0\0\0\0a"], "1 bytes follow"),
        ([["x", "BYTES", [0]]], [b"a"], "1 bytes follow"),
        ([["x", "JSON", [1]]], [b"1"], r"has shape \[\]"),
        ([["x", "JSON", []]], [b""], "malformed JSON"),
        ([["x", "JSON", []]], [b"NaN"], "malformed JSON"),
        ([["x", "JSON", []]], [b"1e999"], "malformed JSON"),
        ([["x", "JSON", []]], [b"1 2"], "malformed JSON"),
        ([["x", "JSON", []]], [b'"\xff"'], "malformed JSON"),
        ([["x", "JSON", []]], [b"[" * 200_000], "malformed JSON"),
        ([["x", "JSON", []]], [b"9" * 100_000], "malformed JSON"),
        ([["x", "int8", [1.0]]], [b"a"], "malformed header"),
        ([["x", "int8", ["1"]]], [b"a"], "malformed header"),
        ([["x", "int8", [True]]], [b"a"], "malformed header"),
        ([["x", "int8", None]], [b"a"], "malformed header"),
        ([["x", "int8"]], [b"a"], "malformed header"),
        ([[b"x", "int8", [1]]], [b"a"], "malformed header"),
        ([None], [b"a"], "malformed header"),
        ({"x": 1}, [b"a"], "malformed header"),
    ],
)
def test_frames_that_are_not_what_the_header_says(specs: Any, frames: list[bytes], told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        unpack(msgspec.Raw(msgspec.msgpack.encode(specs)), frames)


def test_a_claim_reserves_no_memory() -> None:
    claim = specs_of(["a", "BYTES", [2**40]], ["b", "float64", [2**30]])
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            unpack(claim, [bytes(100), bytes(100)])
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_empty_axes_are_no_error() -> None:
    assert unpack(specs_of(["x", "uint8", [0, 2**40]]), [b""])["x"].shape == (0, 2**40)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert signature(specs_of(["x", "int8", [1], "C", {"quantised": True}])) == (("x", "int8", (1,)),)


def test_specs_too_long_to_be_remembered_are_read_all_the_same() -> None:
    tensors = {"x" * 100 + str(number): np.full(2, number) for number in range(50)}
    specs, frames = pack(tensors)
    assert [array[0] for array in unpack(specs, frames).values()] == list(range(50))
    with pytest.raises(ProtocolError, match="tensor frames"):
        unpack(specs, frames[1:])


@given(st.binary(max_size=200), st.lists(st.binary(max_size=20), max_size=3))
def test_random_specs_raise_nothing_but_protocol_errors(content: bytes, frames: list[bytes]) -> None:
    try:
        unpack(msgspec.Raw(content), frames)
    except ProtocolError:
        return
    assert len(msgspec.msgpack.decode(content)) == len(frames)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x", "y", "z"]),
            st.sampled_from(sorted(NAMES)),
            st.lists(st.integers(-1, 3) | st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]), max_size=4),
        ),
        max_size=3,
    ),
    st.lists(st.binary(max_size=40), max_size=3),
)
def test_plausible_specs_raise_nothing_but_protocol_errors(
    specs: list[tuple[str, str, list[int]]], frames: list[bytes]
) -> None:
    try:
        tensors = unpack(specs_of(*specs), frames)
    except ProtocolError:
        return
    for name, dtype, shape in specs:
        if dtype != "JSON":
            assert tensors[name].shape == tuple(shape)


@given(st.data())
def test_every_truncation_of_a_frame_is_noticed(data: st.DataObject) -> None:
    value: Any = data.draw(
        st.sampled_from([np.arange(5.0), [b"ab", b"", b"c"], np.ones(7, np.bool_), Json({"a": [1, 2]})])
    )
    specs, (frame,) = pack({"x": value})
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(ProtocolError):
        unpack(specs, [bytes(frame)[:cut]])


@given(st.data())
def test_every_truncation_of_the_specs_is_noticed(data: st.DataObject) -> None:
    specs, frames = pack({"x": np.zeros((2, 3)), "names": ["a", "b"], "more": Json(None)})
    content = bytes(specs)
    with pytest.raises(ProtocolError):
        unpack(msgspec.Raw(content[: data.draw(st.integers(0, len(content) - 1))]), frames)


def test_a_missing_ml_dtypes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    specs, frames = pack({"x": np.ones(2, dtype_named("bfloat16"))})
    dtype_named.cache_clear()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InvalidInput, match="pip install ml_dtypes"):
        unpack(msgspec.Raw(bytes(specs).replace(b"\xa1x", b"\xa1m")), frames)
    monkeypatch.undo()
    dtype_named.cache_clear()
    assert unpack(specs, frames)["x"].dtype.name == "bfloat16"
