from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import InvalidInput, InvalidOutput
from hpcserve.servable.manifest import MethodSpec, TensorDecl
from hpcserve.servable.signature import Signature, check_inputs, check_outputs

IMAGE = TensorDecl(name="image", dtype="float64", shape=(-1, 64))
MASK = TensorDecl(name="mask", dtype="bool", shape=(-1,))
SCALAR = TensorDecl(name="n", dtype="int64", shape=())
ONE = MethodSpec(inputs=(IMAGE,), outputs=(SCALAR,))
TWO = MethodSpec(inputs=(IMAGE, MASK), outputs=(IMAGE, MASK))
NONE = MethodSpec(inputs=(), outputs=())


@pytest.mark.parametrize(
    ("spec", "given_", "names"),
    [
        (ONE, (("image", "float64", (3, 64)),), ("image",)),
        (ONE, (("", "float64", (0, 64)),), ("image",)),
        (TWO, (("mask", "bool", (2,)), ("image", "float64", (3, 64))), ("mask", "image")),
        (NONE, (), ()),
    ],
)
def test_what_fits_gives_the_declared_names(spec: MethodSpec, given_: Signature, names: tuple[str, ...]) -> None:
    assert check_inputs("m", spec, given_) == names


@pytest.mark.parametrize(
    ("spec", "given_", "message"),
    [
        (
            ONE,
            (("imag", "float64", (3, 64)),),
            "method 'm': unknown input 'imag'; did you mean 'image'?; declared: image: float64[any, 64]",
        ),
        (ONE, (("image", "float32", (3, 64)),), "input 'image' has dtype float32, expected float64"),
        (ONE, (("image", "float64", (3, 63)),), "input 'image' has shape [3, 63], expected [any, 64]"),
        (ONE, (("image", "float64", (64,)),), "input 'image' has shape [64], expected [any, 64]"),
        (ONE, (("image", "float64", (3, 64, 1)),), "input 'image' has shape [3, 64, 1], expected [any, 64]"),
        (ONE, (), "input 'image' missing: 0 given, 1 declared: image: float64[any, 64]"),
        (TWO, (("mask", "bool", (1,)),), "input 'image' missing: 1 given, 2 declared"),
        (ONE, (("image", "float64", (1, 64)), ("", "float64", (1, 64))), "input 'image' is given 2 times"),
        (TWO, (("", "bool", (1,)),), "an input has no name, but 2 are declared"),
        (NONE, (("", "bool", (1,)),), "an input has no name, but 0 are declared: none"),
        (NONE, (("x", "bool", (1,)),), "unknown input 'x'; there are none"),
    ],
)
def test_what_does_not_fit_is_named(spec: MethodSpec, given_: Signature, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        check_inputs("m", spec, given_)


def test_outputs_are_an_error_of_the_servable() -> None:
    check_outputs("m", ONE, (("n", "int64", ()),))
    with pytest.raises(InvalidOutput, match="method 'm' returned what it does not declare: output 'n' has shape"):
        check_outputs("m", ONE, (("n", "int64", (1,)),))


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@given(declared=st.lists(st.integers(-1, 4), max_size=4).map(tuple), actual=shapes)
def test_a_shape_fits_exactly_when_every_axis_does(declared: tuple[int, ...], actual: tuple[int, ...]) -> None:
    spec = MethodSpec(inputs=(TensorDecl(name="x", dtype="int8", shape=declared),), outputs=())
    fits = len(declared) == len(actual) and all(a in (-1, b) for a, b in zip(declared, actual, strict=True))
    if fits:
        assert check_inputs("m", spec, (("x", "int8", actual),)) == ("x",)
    else:
        with pytest.raises(InvalidInput, match="has shape"):
            check_inputs("m", spec, (("x", "int8", actual),))
