"""Arrays as tensors, and how often they are copied."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hpcserve.servable.loaders.torch_arrays import copied, to_array, to_tensor

MANY = 1 << 20


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(4, 3),
    np.arange(12)[::-2],
    np.arange(12, dtype=np.int16).reshape(4, 3).T,
    np.array(3.5),
    np.empty((0, 3), np.float64),
    np.array([True, False]),
    np.array([1 + 2j], np.complex64),
    np.array([0.5, 2.0], ml_dtypes.bfloat16),
    np.broadcast_to(np.arange(3), (4, 3)),
    read_only(np.arange(6, dtype=np.uint8)),
    read_only(np.array([0.5, 2.0, 3.0], ml_dtypes.bfloat16))[::-1],
]


def empty(shape: Sequence[int], dtype: Any) -> Any:
    import torch

    return torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_every_array_comes_back_as_it_was(array: Any) -> None:
    import torch

    with torch.inference_mode():
        for tensor in (copied(torch, array, empty), to_tensor(torch, array)):
            found = to_array(torch, tensor)
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "array",
    [np.zeros(MANY), read_only(np.zeros(MANY)), np.zeros(MANY)[::-1], read_only(np.zeros(MANY, ml_dtypes.bfloat16))],
    ids=["writable", "read-only", "backwards", "bfloat16"],
)
def test_an_array_is_copied_once(array: Any) -> None:
    import torch

    made: list[Any] = []

    def place(shape: Sequence[int], dtype: Any) -> Any:
        made.append(empty(shape, dtype))
        return made[-1]

    tracemalloc.start()
    try:
        tensor = copied(torch, array, place)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tensor is made[0]
    assert most < array.nbytes / 4, "numpy has taken nothing: torch's own memory is not traced"
