from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays

from hpcserve.cli.outputs import as_json, check_output, show, write
from hpcserve.errors import ConfigError

TEXT: np.ndarray[Any, Any] = np.array([b"a", b"\xff\x00"], dtype=object)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([[1, 2]], np.int8), [[1, 2]]),
        (np.array(1.5, np.float32), 1.5),
        (np.array([1.0, np.nan, -np.inf]), [1.0, None, None]),
        (np.array([[np.nan]]), [[None]]),
        (np.array([1 + 2j], np.complex64), [[1.0, 2.0]]),
        (np.array([1.5], ml_dtypes.bfloat16), [1.5]),
        (np.array([True]), [True]),
        (TEXT, ["a", {"base64": "/wA="}]),
        (np.array(b"a", dtype=object), "a"),
        ({"any": ["thing", None]}, {"any": ["thing", None]}),
    ],
)
def test_json_says_what_came(value: object, expected: object) -> None:
    assert json.loads(as_json({"y": value})) == {"y": expected}


@given(arrays.arrays(np.int64, arrays.array_shapes(min_dims=0, min_side=0)))
def test_npz_and_json_give_the_array_back(array: np.ndarray[Any, Any]) -> None:
    assert json.loads(as_json({"y": array}))["y"] == array.tolist()


def test_an_npz_may_use_any_name(tmp_path: Path) -> None:
    outputs = {"file": np.arange(3), "allow_pickle": np.zeros((0, 2), np.float32), "t": TEXT[:1]}
    write(outputs, str(tmp_path / "y.npz"))
    with np.load(tmp_path / "y.npz") as found:
        assert set(found.files) == set(outputs)
        assert found["file"].tolist() == [0, 1, 2]
        assert found["allow_pickle"].shape == (0, 2)
        assert found["t"].tolist() == [b"a"]


def test_an_npy_holds_the_only_output(tmp_path: Path) -> None:
    write({"y": np.arange(3)}, str(tmp_path / "y.npy"))
    assert np.load(tmp_path / "y.npy").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"a": np.zeros(1), "b": np.zeros(1)}, r"holds one array, and the outputs are a, b: write a \.npz"),
        ({"a": {"x": 1}}, r"output 'a' is a JSON value: write a \.json"),
        ({"a": TEXT}, "end in NUL"),
        ({"a": np.zeros(1, ml_dtypes.bfloat16)}, "bfloat16, which numpy cannot store"),
    ],
)
def test_what_an_npy_cannot_hold_is_refused(tmp_path: Path, outputs: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        write(outputs, str(tmp_path / "y.npy"))
    assert not (tmp_path / "y.npy").exists()


def test_json_goes_to_a_file_or_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write({"y": np.arange(2)}, str(tmp_path / "y.json"))
    assert (tmp_path / "y.json").read_text() == '{"y": [0, 1]}\n'
    write({"y": np.arange(2)}, "-")
    assert capsys.readouterr().out == '{"y": [0, 1]}\n'


def test_a_bad_output_is_refused_before_the_call(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--output y\.txt: expected a name that ends in \.npy, \.npz, \.json, \.h5"):
        check_output("y.txt")
    with pytest.raises(ConfigError, match="directory .*missing does not exist"):
        check_output(str(tmp_path / "missing" / "y.npy"))
    check_output("-")
    check_output(str(tmp_path / "y.npz"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_answer_is_summed_up_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {"y": np.arange(5000), "t": np.array(b"3." + b"1" * 5000, dtype=object)}
    show(outputs)
    assert json.loads(capsys.readouterr().out)["y"][-1] == 4999
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show(outputs)
    first, second = terminal.getvalue().splitlines()
    assert first == "y: int64[5000] 0 1 2 3 4 5 6 7 …"
    assert second.startswith('t: BYTES[] "3.111')
    assert second.endswith("(5,004 characters)")
    show({"y": np.arange(2)})
    assert terminal.getvalue().endswith('{"y": [0, 1]}\n')
