from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.cli.inputs import JsonText, from_json, needs_declaration, read_inputs
from hpcserve.errors import ConfigError, InvalidInput
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.wire.tensor import Json

MOST_BYTES = 1 << 20


def read(options: list[str]) -> dict[str, Any]:
    return read_inputs(options, most_bytes=MOST_BYTES)


def spec(*inputs: tuple[str, str]) -> MethodSpec:
    return MethodSpec(inputs=tuple(TensorDecl(name=name, dtype=dtype, shape=()) for name, dtype in inputs), outputs=())


def converted(dtype: str, value: Any) -> Any:
    return from_json({"": JsonText(value)}, spec(("x", dtype)))["x"]


def place(path: Path, value: object) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def test_an_array_keeps_its_dtype_and_needs_no_question(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3, dtype=np.int16))
    found = read([str(tmp_path / "x.npy")])
    assert found[""].dtype == np.int16
    assert not needs_declaration(found)


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.json")
    assert read([str(tmp_path / "x.json")])[""].tolist() == [0, 1, 2]


def test_an_npz_gives_its_arrays_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(1), b=np.ones(2))
    assert {name: value.tolist() for name, value in read([str(tmp_path / "x.npz")]).items()} == {
        "a": [0],
        "b": [1, 1],
    }
    with pytest.raises(ConfigError, match=r"holds 2 arrays \(a, b\): give it without c="):
        read([f"c={tmp_path / 'x.npz'}"])


def test_a_json_object_gives_values_by_name_unless_it_is_named(tmp_path: Path) -> None:
    file = place(tmp_path / "x.json", {"a": 1, "b": [2]})
    assert read([file]) == {"a": JsonText(1), "b": JsonText([2])}
    assert read([f"c={file}"]) == {"c": JsonText({"a": 1, "b": [2]})}
    assert read([place(tmp_path / "y.json", [1])]) == {"": JsonText([1])}


@pytest.mark.parametrize("content", [b"[1, 2]", b"npy"])
def test_standard_input_is_sniffed(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    if content == b"npy":
        file = io.BytesIO()
        np.save(file, np.array([1, 2]))
        content = file.getvalue()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    ready = from_json(read(["-"]), spec(("x", "int64")))
    assert [value.tolist() for value in ready.values()] == [[1, 2]]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.npy: No such file"):
        read([str(tmp_path / "missing.npy")])
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(ConfigError, match=r"x is neither \.npy nor \.npz nor JSON"):
        read([str(tmp_path / "x")])
    (tmp_path / "x").write_bytes(b"\x93NUMPY\x01\x00v")
    with pytest.raises(ConfigError, match="cannot read"):
        read([str(tmp_path / "x")])
    (tmp_path / "x").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(ConfigError, match="cannot read"):
        read([str(tmp_path / "x")])


def too_large(source: str) -> str:
    return rf"with {source} the inputs have \d+ bytes or more: a request to this service has at most {MOST_BYTES}; "


def test_a_request_is_no_larger_than_the_service_takes(tmp_path: Path) -> None:
    largest = np.zeros(MOST_BYTES, np.uint8)
    np.save(tmp_path / "x.npy", largest)
    np.savez(tmp_path / "x.npz", x=largest)
    assert read([str(tmp_path / "x.npy")])[""].nbytes == MOST_BYTES
    assert read([str(tmp_path / "x.npz")])["x"].nbytes == MOST_BYTES
    with pytest.raises(InvalidInput, match=too_large(".*x.npy")):
        read([f"a={tmp_path / 'x.npz'}", f"b={tmp_path / 'x.npy'}"])
    (tmp_path / "x.json").write_bytes(b"[" + b" " * 2 * MOST_BYTES + b"]")
    with pytest.raises(InvalidInput, match=too_large(".*x.json") + "send them in parts, or as .npy if this is JSON"):
        read([str(tmp_path / "x.json")])


def test_a_small_file_with_a_large_array_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(2 * MOST_BYTES, np.uint8))
    assert (tmp_path / "x.npz").stat().st_size < MOST_BYTES / 100
    with pytest.raises(InvalidInput, match=too_large(".*x.npz")):
        read([str(tmp_path / "x.npz")])


def test_a_header_is_believed_before_anything_is_read(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    (tmp_path / "x.npy").write_bytes(header.getvalue())
    with pytest.raises(InvalidInput, match=too_large(".*x.npy")):
        read([str(tmp_path / "x.npy")])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (100,)})
    (tmp_path / "x.npy").write_bytes(header.getvalue() + bytes(8))
    with pytest.raises(ConfigError, match=r"cannot read .*x\.npy: it has 136 bytes, and its header says 928"):
        read([str(tmp_path / "x.npy")])


def test_a_pipe_without_an_end_is_read_to_the_limit() -> None:
    with pytest.raises(InvalidInput, match=too_large("/dev/zero")):
        read(["/dev/zero"])


def test_standard_input_is_read_once() -> None:
    with pytest.raises(ConfigError, match="--input - is given more than once"):
        read(["a=-", "b=-"])


@given(st.data())
def test_a_damaged_file_is_refused_or_read(data: st.DataObject) -> None:
    file = io.BytesIO()
    if data.draw(st.booleans()):
        np.save(file, np.arange(6, dtype=np.float32).reshape(2, 3))
    else:
        np.savez_compressed(file, a=np.arange(5), b=np.zeros((2, 2)))
    content = bytearray(file.getvalue())
    for place_, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)
    ):
        content[place_] = byte
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(content))))
        with contextlib.suppress(ConfigError, InvalidInput):
            read(["-"])


def test_a_header_that_does_not_close_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.arange(6))
    (tmp_path / "x").write_bytes(file.getvalue().replace(b"(6,)", b"(6, "))
    with pytest.raises(ConfigError, match="cannot read .*x: its header is broken"):
        read([str(tmp_path / "x")])
    with zipfile.ZipFile(tmp_path / "y", "w") as archive:
        archive.write(tmp_path / "x", "a.npy")
    with pytest.raises(ConfigError, match="cannot read .*y: "):
        read([str(tmp_path / "y")])


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot read"):
        read([str(tmp_path / "x.npy")])


def test_names_must_be_clear(tmp_path: Path) -> None:
    file = place(tmp_path / "x.json", [1])
    with pytest.raises(ConfigError, match="input 'a' is given"):
        read([f"a={file}", f"a={file}"])
    with pytest.raises(ConfigError, match="several inputs without a name"):
        read([file, file])
    with pytest.raises(ConfigError, match="one input has a name and another has none"):
        read([f"a={file}", file])


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="unknown input 'imaeg'; did you mean 'image'"):
        from_json({"imaeg": JsonText([1])}, spec(("image", "int64"), ("mask", "bool")))
    with pytest.raises(InvalidInput, match="unknown input ''; known: image, mask"):
        from_json({"": JsonText([1])}, spec(("image", "int64"), ("mask", "bool")))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("float32", [1, 2.5], [1.0, 2.5]),
        ("float64", [None, 1], [float("nan"), 1.0]),
        ("int8", [[-128, 127]], [[-128, 127]]),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("int64", [1.0, 2], [1, 2]),
        ("bool", [True, False], [True, False]),
        ("int32", [], []),
        ("bfloat16", [1.5], [1.5]),
        ("float32", [float("inf"), 3.4e38], [float("inf"), float(np.float32(3.4e38))]),
        ("BYTES", ["a", "é"], ["a", "é"]),
        ("BYTES", "a", "a"),
    ],
)
def test_json_becomes_what_is_declared(dtype: str, value: object, expected: object) -> None:
    found = converted(dtype, value)
    assert str(found.dtype) == ("object" if dtype == "BYTES" else dtype)
    np.testing.assert_equal(found.tolist(), expected)


def test_a_json_input_stays_json() -> None:
    assert converted("JSON", {"a": [None]}) == Json({"a": [None]})


@pytest.mark.parametrize(
    ("dtype", "value", "reason"),
    [
        ("int64", [1.5], "it holds something that is no whole number"),
        ("int64", [None], "it holds something that is no whole number"),
        ("int64", ["1"], "it holds something that is no whole number"),
        ("uint8", [256], "values from 256 to 256, but uint8 holds 0 to 255"),
        ("uint8", [-1], "values from -1 to -1"),
        ("bool", [1], "bool was declared, and numbers given"),
        ("float32", [True], "float32 was declared, and true and false given"),
        ("float32", ["x"], "could not convert"),
        ("float32", [1, -1e39], r"-1e\+39 is too large for float32"),
        ("float16", [[70000]], r"70000\.0 is too large for float16"),
        ("bfloat16", 3.4e38, r"3\.4e\+38 is too large for bfloat16"),
        ("float32", [[1], [2, 3]], "inhomogeneous"),
        ("float32", {"a": 1}, ""),
        ("complex64", [1], r"JSON has no complex numbers; use a \.npy file"),
        ("BYTES", [1], "expected text, got 1"),
    ],
)
def test_json_that_would_lose_something_is_refused(dtype: str, value: object, reason: str) -> None:
    with pytest.raises(InvalidInput, match=rf"input 'x': this JSON is no {dtype}: .*{reason}"):
        converted(dtype, value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 1e400]", "1e400 is too large for float64, and with it for every dtype"),
        ('{"x": 1, "y": 2, "x": 1}', "the JSON has 'x' more than once in one object; leave one of them"),
        ('[{"x": {"k": 1, "k": 2}}]', "the JSON has 'k' more than once"),
    ],
)
def test_json_that_python_would_change_in_silence_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"x\.json: {reason}"):
        read([str(tmp_path / "x.json")])


@given(st.lists(st.integers(min_value=-(2**63), max_value=2**63 - 1)))
def test_whole_numbers_arrive_exactly(numbers: list[int]) -> None:
    assert converted("int64", numbers).tolist() == numbers
