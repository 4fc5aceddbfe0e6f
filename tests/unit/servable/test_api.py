from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import hpcserve
from hpcserve import Tensor, method
from hpcserve.errors import ManifestError
from hpcserve.servable.api import declared_by, takes_parameters


def test_the_decorator_records_and_changes_nothing_else() -> None:
    @method(
        inputs={"x": Tensor("float32", [-1, 64])},
        outputs=[Tensor("int64", [-1], name="label"), Tensor("JSON", name="why")],
        idempotent=False,
        batchable=False,
    )
    def predict(x: float) -> float:
        return x + 1

    assert predict(1.0) == 2.0
    spec = declared_by(predict)
    assert spec is not None
    assert [(one.name, one.dtype, one.shape) for one in spec.inputs] == [("x", "float32", (-1, 64))]
    assert [(one.name, one.dtype, one.shape) for one in spec.outputs] == [
        ("label", "int64", (-1,)),
        ("why", "JSON", ()),
    ]
    assert (spec.idempotent, spec.batchable, spec.parameters) == (False, False, False)


def test_a_keyword_only_argument_parameters_is_seen() -> None:
    def with_them(x: int, *, parameters: dict[str, Any]) -> None: ...
    def positional(x: int, parameters: dict[str, Any]) -> None: ...

    assert takes_parameters(with_them)
    assert not takes_parameters(positional)
    spec = declared_by(method(inputs={"x": Tensor("int64")}, outputs={})(with_them))
    assert spec is not None
    assert spec.parameters


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: method(inputs={"x": Tensor("flat32")}, outputs={}), "unknown dtype 'flat32'; did you mean 'float32'"),
        (lambda: method(inputs={"x": "float32"}, outputs={}), "expected a Tensor, got 'float32'"),  # type: ignore[dict-item]  # wrong on purpose
        (lambda: method(inputs=[Tensor("float32")], outputs={}), "'' cannot be a tensor's name"),
        (lambda: method(inputs={"a b": Tensor("float32")}, outputs={}), "'a b' cannot be a tensor's name"),
        (lambda: method(inputs={}, outputs={}, batchable=True), "batchable: needs at least one input"),
    ],
)
def test_a_wrong_declaration_names_the_function(
    declare: Callable[[], Callable[[Callable[[], None]], Callable[[], None]]], message: str
) -> None:
    def broken() -> None: ...

    with pytest.raises(ManifestError, match=f"@method of .*broken: .*{message}"):
        declare()(broken)


def test_what_is_not_decorated_has_no_declaration() -> None:
    assert declared_by(len) is None
    assert declared_by(None) is None


def test_the_public_names_are_these() -> None:
    assert hpcserve.method is method
    assert hpcserve.Tensor is Tensor


def test_importing_them_loads_nothing_heavy() -> None:
    """An author's module runs in any image: numpy and msgspec must be enough."""
    heavy = ["zmq", "sqlalchemy", "tomllib", "sklearn", "joblib", "asyncio"]
    program = (
        f"import sys; from hpcserve import method, Tensor; print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"
