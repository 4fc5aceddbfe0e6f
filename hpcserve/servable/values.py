"""Python values as the numpy arrays of a declared dtype, where that loses nothing.

Arrays keep their dtype, so that a wrong one is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcserve.wire.dtypes import dtype_named


def byte_strings(value: object) -> np.ndarray[Any, Any]:
    """An array of ``bytes`` and ``str``.

    Raises:
        TypeError: An element is something else.
        ValueError: It is no array.
    """
    # Without dtype=object numpy would make 'S' of a list and drop trailing NULs.
    array = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    if array.dtype.kind not in "SUO" or not all(isinstance(one, (bytes, str)) for one in array.flat):
        raise TypeError("each element must be bytes or text")
    return array


def numbers(dtype: str, value: object) -> np.ndarray[Any, Any]:
    """An array of numbers; of Python's own with the dtype of this name.

    Raises:
        InvalidInput: The dtype needs a package that is not here.
        OverflowError: A number is too large.
        TypeError: The numbers do not fit.
        ValueError: It is no array.
    """
    if isinstance(value, np.ndarray):
        return value
    array = np.asarray(value)
    if hasattr(value, "dtype") or array.dtype.name == dtype:
        return array
    wanted = dtype_named(dtype)
    # numpy itself checks the range of Python integers, signed to unsigned included.
    safe = np.can_cast(array.dtype, wanted, "same_kind") or {array.dtype.kind, wanted.kind} == {"i", "u"}
    if array.size and not safe:
        raise TypeError(f"{array.dtype.name} values do not fit")
    return np.asarray(value, dtype=wanted)
