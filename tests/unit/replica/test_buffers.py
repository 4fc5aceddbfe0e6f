"""Memory that is used again, but never while somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpcserve.replica.buffers import MOST, SMALLEST_BYTES, Buffers

SIZE = SMALLEST_BYTES


def address(array: Any) -> int:
    return int(np.asarray(array).__array_interface__["data"][0])


def test_what_nobody_holds_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.take(SIZE)
    where = address(first)
    del first
    assert address(buffers.take(SIZE // 2 * 2)) == where


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array,
        lambda array: array.view(np.float32)[4:8],
        lambda array: array.reshape(2, -1).T,
        lambda array: memoryview(array)[1:2],
        lambda array: array.view(np.float64).reshape(-1, 2).data,
    ],
)
def test_what_somebody_holds_is_not(hold: Callable[[Any], Any]) -> None:
    buffers = Buffers()
    held = hold(buffers.take(SIZE))
    before = bytes(memoryview(held))
    for _ in range(2 * MOST):
        buffers.take(SIZE)[:] = 7
    assert bytes(memoryview(held)) == before


def test_no_more_are_kept_than_a_few_and_none_that_is_far_too_large() -> None:
    buffers = Buffers()
    large = buffers.take(3 * SIZE)
    where = address(large)
    del large
    assert address(buffers.take(SIZE)) != where
    many = [buffers.take(SIZE) for _ in range(2 * MOST)]
    assert len({address(each) for each in many}) == 2 * MOST
    assert len(buffers._kept) == MOST


def test_small_ones_are_not_worth_it() -> None:
    buffers = Buffers()
    assert buffers.take(10).size == 10
    assert buffers._kept == []
