"""Requests put together and taken apart: everybody gets the same as alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import InvalidInput, InvalidOutput
from hpcserve.replica.joint import in_words, joined, key_of, parted
from hpcserve.servable.manifest import Batching, MethodSpec, TensorDecl
from hpcserve.servable.signature import Signature


def decl(name: str, dtype: str, *shape: int) -> TensorDecl:
    return TensorDecl(name=name, dtype=dtype, shape=shape)


PLAIN = MethodSpec(
    inputs=(decl("x", "float64", -1, 3), decl("k", "int64", -1)),
    outputs=(decl("y", "float64", -1, 3),),
    batchable=True,
)
RAGGED = MethodSpec(
    inputs=(decl("tokens", "int32", -1, -1),),
    outputs=(decl("logits", "float32", -1, -1, 2), decl("sum", "int64", -1)),
    batchable=True,
    batching=Batching(pad={"tokens": 0}, cut={"logits": "tokens"}),
)


def signature(**shapes: tuple[int, ...]) -> Signature:
    return tuple((name, "float64", shape) for name, shape in shapes.items())


def test_the_key_is_all_but_the_number_of_samples() -> None:
    names = ("x", "k")
    first, samples = key_of(PLAIN, names, signature(x=(5, 3), k=(5,)))
    assert samples == 5
    assert key_of(PLAIN, names, signature(x=(2, 3), k=(2,))) == (first, 2)
    assert key_of(PLAIN, ("k", "x"), signature(k=(2,), x=(2, 3))) == (first, 2)
    free = MethodSpec(inputs=(decl("x", "float64", -1, -1),), outputs=PLAIN.outputs, batchable=True)
    assert key_of(free, ("x",), signature(x=(2, 3)))[0] != key_of(free, ("x",), signature(x=(2, 4)))[0]


def test_a_key_is_told_in_words() -> None:
    key, _ = key_of(PLAIN, ("x", "k"), (("x", "float64", (5, 3)), ("k", "int64", (5,))))
    assert in_words(key) == "k int64[n], x float64[n, 3]"
    told = [in_words(key_of(RAGGED, ("tokens",), (("tokens", "int32", (2, length)),))[0]) for length in (0, 1, 3, 4, 7)]
    assert told == [f"tokens int32[n, {lengths}]" for lengths in ("0", "1", "2-3", "4-7", "4-7")]


def test_padding_at_most_doubles_an_axis() -> None:
    keys: dict[Any, list[int]] = {}
    for length in range(1, 300):
        key = key_of(RAGGED, ("tokens",), signature(tokens=(1 + length % 3, length)))[0]
        keys.setdefault(key, []).append(length)
    assert all(max(lengths) < 2 * min(lengths) for lengths in keys.values())
    assert len(keys) == 9


def test_inputs_with_different_numbers_of_samples_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'x' has 5, 'k' has 4"):
        key_of(PLAIN, ("x", "k"), signature(x=(5, 3), k=(4,)))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_each_gets_its_own_samples_back(counts: list[int]) -> None:
    dice = np.random.default_rng(1)
    requests = [{"x": dice.normal(size=(n, 3)), "k": dice.integers(9, size=n)} for n in counts]
    whole = joined(PLAIN, requests)
    outputs = {"y": whole["x"] * whole["k"][:, None]}
    for part, request in zip(parted("go", PLAIN, outputs, requests), requests, strict=True):
        np.testing.assert_array_equal(part["y"], request["x"] * request["k"][:, None])


def test_the_method_may_change_what_it_is_given() -> None:
    mine = np.zeros((2, 3))
    mine.flags.writeable = False
    whole = joined(PLAIN, [{"x": mine, "k": np.zeros(2, np.int64)}] * 2)
    whole["x"] += 1
    assert not mine.any()


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=6))
def test_ragged_inputs_are_padded_and_their_outputs_cut(shapes: list[tuple[int, int]]) -> None:
    requests: list[Mapping[str, Any]] = [
        {"tokens": np.arange(1, n * m + 1, dtype=np.int32).reshape(n, m)} for n, m in shapes
    ]
    tokens = joined(RAGGED, requests)["tokens"]
    assert tokens.dtype == np.int32
    assert tokens.shape[1] == max(m for _, m in shapes)
    outputs = {"logits": np.stack([tokens, -tokens], axis=-1).astype(np.float32), "sum": tokens.sum(axis=1)}
    for part, request in zip(parted("go", RAGGED, outputs, requests), requests, strict=True):
        np.testing.assert_array_equal(part["logits"][..., 0], request["tokens"])
        np.testing.assert_array_equal(part["sum"], request["tokens"].sum(axis=1))


@pytest.mark.parametrize("rows", [0, 4, 6])
def test_another_number_of_samples_is_an_error(rows: int) -> None:
    requests = [{"x": np.zeros((n, 3)), "k": np.zeros(n)} for n in (2, 3)]
    with pytest.raises(InvalidOutput, match=f"called with 5 samples and returned {rows} of 'y'"):
        parted("go", PLAIN, {"y": np.zeros((rows, 3))}, requests)
