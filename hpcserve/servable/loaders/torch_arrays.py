"""Numpy's arrays as torch's tensors, and back, without a copy where that can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcserve.wire.dtypes import dtype_named

_BFLOAT16 = "bfloat16"


def to_tensor(torch: Any, array: np.ndarray[Any, Any]) -> Any:
    """A tensor with the memory of an array, or with its own where torch cannot use that."""
    array = np.asarray(array)
    return _shared(torch, array if _may_share(array) else array.copy())


def copied(torch: Any, array: np.ndarray[Any, Any], empty: Callable[[Sequence[int], Any], Any]) -> Any:
    """A tensor with the values of an array, which is copied once.

    Args:
        torch: The package.
        array: Any that torch has a dtype for.
        empty: Makes the tensor, on the CPU: of this shape and this dtype of torch.
    """
    array = np.asarray(array)
    made = empty(array.shape, _shared(torch, np.empty(0, array.dtype)).dtype)
    if _may_share(array):
        made.copy_(_shared(torch, array))  # by several threads, where it is large
    else:
        to_array(torch, made)[...] = array
    return made


def _may_share(array: np.ndarray[Any, Any]) -> bool:
    return array.flags.writeable and all(stride >= 0 for stride in array.strides)


def _shared(torch: Any, array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.name == _BFLOAT16:  # numpy has it from ml_dtypes, which torch does not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(torch: Any, tensor: Any) -> np.ndarray[Any, Any]:
    """An array with the memory of a tensor that is on the CPU."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        whole: np.ndarray[Any, Any] = tensor.contiguous().view(torch.int16).numpy()
        return whole.view(dtype_named(_BFLOAT16))
    array: np.ndarray[Any, Any] = tensor.numpy()
    return array
