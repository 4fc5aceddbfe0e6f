"""What is run before a replica is ready, and the phases of its start."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hpcserve.errors import HpcserveError, ManifestError, ServableError
from hpcserve.replica.laps import Laps
from hpcserve.replica.warmup import warm_up
from hpcserve.servable.api import Context
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import Manifest, MethodSpec, WarmUp, from_table
from hpcserve.servable.warmup import check

MODEL = """\
from pathlib import Path

import numpy as np
from hpcserve import Batching, Tensor, method

NUMBERS = Batching(max_batch_size=8, preferred_batch_sizes=(4, 8, 16))
X = Tensor("float32", [-1, 3])


class Model:
    def __init__(self):
        self.calls = []

    @method(inputs={"x": X, "m": Tensor("bool", [-1])}, outputs={"y": X}, batchable=True, batching=NUMBERS)
    def predict(self, x, m):
        CALLS.append((x.copy(), m.copy()))
        if x.max() > 100:
            raise RuntimeError("too hot")
        return x[:3] if x.min() < 0 else x

    @method(inputs={"text": Tensor("BYTES", [2]), "how": Tensor("JSON")}, outputs={"n": Tensor("int64")})
    def count(self, text, how, *, parameters):
        CALLS.append((text.tolist(), how, parameters))
        return len(text)

    @method(inputs={"n": Tensor("int8", [2])}, outputs={"i": Tensor("int64")}, stream=True)
    def steps(self, n):
        try:
            while True:
                CALLS.append(n.tolist())
                yield 1
        finally:
            CALLS.append("closed")


CALLS = []
"""


def run(tmp_path: Path, *entries: dict[str, Any]) -> list[Any]:
    """The calls that the warm-up makes."""
    (tmp_path / "model.py").write_text(MODEL)
    table = {"name": "a", "loader": "python", "entry": "model:Model", "warmup": list(entries)}
    manifest = from_table(table)
    loader = loader_named("python")
    check(msgspec.structs.replace(manifest, methods=loader.discover(manifest, tmp_path)), tmp_path)
    loaded = loader.load(manifest, Context(tmp_path))
    warm_up(loaded, manifest, tmp_path)
    module = next(each for each in sys.modules.values() if getattr(each, "__file__", "") == str(tmp_path / "model.py"))
    return list(module.CALLS)


def refused(tmp_path: Path, **entry: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        run(tmp_path, entry)
    return caught.value.message


def test_a_batchable_method_runs_in_its_preferred_sizes(tmp_path: Path) -> None:
    """Not in one that no batch will have."""
    calls = run(
        tmp_path, {"method": "predict", "inputs": {"x": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}, "shapes": {"m": [3]}}
    )
    assert [len(x) for x, _ in calls] == [3, 4, 8]
    assert calls[2][0][:, 0].tolist() == [1, 4, 7, 1, 4, 7, 1, 4]
    assert all(x.dtype == np.float32 and m.dtype == np.bool_ and len(m) == len(x) for x, m in calls)


def test_the_sizes_may_be_said(tmp_path: Path) -> None:
    assert [len(x) for x, _ in run(tmp_path, {"method": "predict", "batch_sizes": [1, 16]})] == [1, 16]
    assert [len(x) for x, _ in run(tmp_path, {"method": "predict", "batch_sizes": []})] == [1]


def test_what_is_not_mentioned_is_filled(tmp_path: Path) -> None:
    ((x, m),) = run(tmp_path, {"method": "predict", "batch_sizes": []})
    assert (x.tolist(), m.tolist()) == ([[0, 0, 0]], [False])
    entry = {"method": "predict", "batch_sizes": [], "shapes": {"x": [50, 3], "m": [50]}, "fill": "random"}
    ((x, m),) = run(tmp_path, entry)
    ((again, _),) = run(tmp_path, entry)
    ((other, _),) = run(tmp_path, {**entry, "seed": 1})
    assert x.tolist() == again.tolist() != other.tolist()
    assert 0 <= x.min() < 0.1
    assert 0.9 < x.max() < 1
    assert set(m.tolist()) == {True, False}


def test_values_of_every_kind_come_as_requests_bring_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "texts.npz", text=np.array([b"a", b"bc"]))
    parameters = {"shortest": 3}
    calls = run(
        tmp_path,
        {"method": "count", "inputs": {"how": {"a": [1]}, "text": ["ä", "b\0"]}, "parameters": parameters},
        {"method": "count", "inputs": {"how": None}, "file": "texts.npz"},
        {"method": "count", "inputs": {"how": 1}},
    )
    assert calls == [
        (["ä".encode(), b"b\0"], {"a": [1]}, parameters),
        ([b"a", b"bc"], None, {}),
        ([b"", b""], 1, {}),
    ]


def test_a_stream_gives_one_item_and_is_closed(tmp_path: Path) -> None:
    assert run(tmp_path, {"method": "steps", "inputs": {"n": [1, -1]}}) == [[1, -1], "closed"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"method": "predikt"}, "warmup[0]: servable 'a' has no method 'predikt'; did you mean 'predict'?"),
        ({"method": "predict", "inputs": {"z": 1}}, "warmup[0]: inputs: unknown input 'z'"),
        ({"method": "predict", "shapes": {"z": [1]}}, "warmup[0]: shapes: unknown input 'z'"),
        ({"method": "predict", "shapes": {"x": [1, 4]}}, "input 'x' has shape [1, 4], expected [any, 3]"),
        ({"method": "predict", "inputs": {"x": [["a"]]}}, "warmup[0]: input 'x': the value cannot be float32"),
        ({"method": "steps", "inputs": {"n": [1, 300]}}, "warmup[0]: input 'n': the value cannot be int8"),
        ({"method": "steps", "inputs": {"n": [1.5, 3]}}, "warmup[0]: input 'n': the value cannot be int8"),
        (
            {"method": "predict", "shapes": {"x": [0, 3], "m": [0]}},
            "the same number of samples, at least one: 'x' has 0",
        ),
        (
            {"method": "predict", "shapes": {"x": [2, 3]}},
            "the same number of samples, at least one: 'x' has 2, 'm' has 1",
        ),
        ({"method": "predict", "shapes": {"x": [1 << 60, 3]}}, "input 'x' of shape [1152921504606846976, 3] cannot be"),
        ({"method": "predict", "parameters": {"a": 1}}, "warmup[0]: parameters: method 'predict' takes none"),
        ({"method": "count"}, "warmup[0]: input 'how' is JSON: give its value in inputs"),
        ({"method": "count", "inputs": {"how": 1, "text": [1, 2]}}, "input 'text': the value cannot be BYTES"),
        ({"method": "count", "inputs": {"how": 1}, "batch_sizes": [2]}, "batch_sizes: method 'count' is not batchable"),
        ({"method": "predict", "file": "no.npz"}, "warmup[0]: file: no file 'no.npz' in"),
        ({"method": "predict", "file": "../x.npz"}, "warmup[0]: file: '../x.npz' leaves the servable's directory"),
        ({"method": "predict", "file": "model.py"}, "warmup[0]: file: 'model.py' is not an .npz file"),
    ],
)
def test_an_entry_that_cannot_be_run_is_refused_before_anything_runs(
    tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    assert message in refused(tmp_path, **entry)


def test_a_method_must_be_named_where_a_call_must_name_one(tmp_path: Path) -> None:
    methods = dict.fromkeys(("a", "b"), MethodSpec(inputs=(), outputs=()))
    with pytest.raises(ManifestError, match=re.escape("warmup[0].method: name one of the servable's methods: a, b")):
        check(Manifest(name="x", loader="python", methods=methods, warmup=(WarmUp(),)), tmp_path)
    check(Manifest(name="x", loader="python", methods={"a": methods["a"]}, warmup=(WarmUp(),)), tmp_path)


def test_a_file_of_the_wrong_dtype_is_not_converted(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3)), m=np.zeros(1, bool))
    assert "input 'x' has dtype float64, expected float32" in refused(tmp_path, method="predict", file="x.npz")
    both = refused(tmp_path, method="predict", file="x.npz", inputs={"x": [[0, 0, 0]]})
    assert "input 'x' is given by inputs and by file; keep one of them" in both


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            101.0,
            "the warm-up (warmup[1], method 'predict', samples: 4) failed: method 'predict' failed: RuntimeError: ",
        ),
        (-1.0, "the warm-up (warmup[1], method 'predict', samples: 4) failed: method 'predict' was called with 4 "),
    ],
)
def test_a_run_that_fails_says_which(tmp_path: Path, value: float, message: str) -> None:
    good = {"method": "predict"}
    bad = {"method": "predict", "inputs": {"x": [[1.0, 1.0, 1.0]] * 3 + [[value] * 3]}, "shapes": {"m": [4]}}
    with pytest.raises(ServableError, match=re.escape(message)) as caught:
        run(tmp_path, good, bad)
    assert value < 0 or "too hot" in (caught.value.remote_traceback or "")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": {}}, "servable.toml: warmup[0]: unknown field 'shape'; did you mean 'shapes'?"),
        ({"fill": "ones"}, 'servable.toml: warmup[0].fill: expected "random" or "zeros", got \'ones\''),
        ({"batch_sizes": [0]}, "servable.toml: warmup[0].batch_sizes[0]: expected `int` >= 1"),
        ({"shapes": {"x": [-1]}}, "servable.toml: warmup[0].shapes[...][0]: expected `int` >= 0"),
    ],
)
def test_a_field_that_is_wrong(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(HpcserveError, match=re.escape(message)):
        run(tmp_path, entry)


def test_laps() -> None:
    times = iter([10.0, 11.0, 14.0, 14.5])
    laps = Laps(lambda: next(times))
    laps.end("start")
    laps.end("load", apart=2.5, of="import")
    laps.end("connect")
    assert laps.took_s == {"start": 1.0, "import": 2.5, "load": 0.5, "connect": 0.5}
