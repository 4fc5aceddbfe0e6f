"""Do these tensors fit what the method declares? Pure functions over names, dtypes and shapes.

A caller asks once for each distinct signature and keeps the answer. Values are not looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpcserve.core.spelling import nearest
from hpcserve.errors import InvalidInput, InvalidOutput
from hpcserve.servable.manifest import MethodSpec, TensorDecl

Described = tuple[str, str, tuple[int, ...]]
"""One tensor: its name, dtype and shape."""

Signature = tuple[Described, ...]


class _MismatchError(Exception):
    """Why the tensors do not fit; becomes the message of the public error."""


def check_inputs(method: str, spec: MethodSpec, given: Signature) -> tuple[str, ...]:
    """The declared name of each given input, in the order given.

    The name ``""`` stands for the only input of a method.

    Raises:
        InvalidInput: A name, dtype, shape or the count is wrong.
    """
    try:
        return _match(spec.inputs, given, "input")
    except _MismatchError as error:
        raise InvalidInput(f"method {method!r}: {error}") from None


def check_outputs(method: str, spec: MethodSpec, given: Signature) -> None:
    """Checks what a method returned.

    Raises:
        InvalidOutput: A name, dtype, shape or the count is not as declared.
    """
    try:
        _match(spec.outputs, given, "output")
    except _MismatchError as error:
        raise InvalidOutput(f"method {method!r} returned what it does not declare: {error}") from None


def described(tensors: Sequence[TensorDecl]) -> str:
    """The declarations as a person reads them: ``x: float64[any, 64], mask: bool[any]``."""
    return ", ".join(f"{one.name}: {one.dtype}{_shown(one.shape)}" for one in tensors) or "none"


def _match(declared: tuple[TensorDecl, ...], given: Signature, noun: str) -> tuple[str, ...]:
    names = tuple(_named(declared, name, noun) for name, _, _ in given)
    by_name = {tensor.name: tensor for tensor in declared}
    for name in names:
        if name not in by_name:
            raise _MismatchError(f"unknown {noun} {name!r}{nearest(name, by_name)}; declared: {described(declared)}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _MismatchError(f"{noun} {twice!r} is given {names.count(twice)} times")
    missing = [tensor.name for tensor in declared if tensor.name not in names]
    if missing:
        lost = ", ".join(repr(name) for name in missing)
        raise _MismatchError(
            f"{noun} {lost} missing: {len(given)} given, {len(declared)} declared: {described(declared)}"
        )
    for name, (_, dtype, shape) in zip(names, given, strict=True):
        _check_one(by_name[name], dtype, shape, noun)
    return names


def _named(declared: tuple[TensorDecl, ...], name: str, noun: str) -> str:
    if name:
        return name
    if len(declared) != 1:
        raise _MismatchError(f"an {noun} has no name, but {len(declared)} are declared: {described(declared)}")
    return declared[0].name


def _check_one(tensor: TensorDecl, dtype: str, shape: tuple[int, ...], noun: str) -> None:
    if dtype != tensor.dtype:
        raise _MismatchError(f"{noun} {tensor.name!r} has dtype {dtype}, expected {tensor.dtype}")
    fits = len(shape) == len(tensor.shape) and all(
        wanted in (-1, length) for wanted, length in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        raise _MismatchError(f"{noun} {tensor.name!r} has shape {_shown(shape)}, expected {_shown(tensor.shape)}")


def _shown(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join("any" if length == -1 else str(length) for length in shape) + "]"
