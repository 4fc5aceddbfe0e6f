"""The element types that travel, by their names on the wire (:mod:`hpcserve.wire.dtype_names`).

Decides which numpy dtype each name stands for and what to advise for the ones that have no name. Holds no
bytes; :mod:`hpcserve.wire.tensor` does the packing.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from hpcserve.errors import InvalidInput, ProtocolError
from hpcserve.wire.dtype_names import BYTES, JSON, ML_DTYPES, NAMES, NUMPY_TYPES

Dtype = np.dtype[Any]

DTYPES: dict[str, Dtype] = {name: np.dtype(kind) for name, kind in NUMPY_TYPES.items()}
"""The names that numpy alone can hold, with their dtype in little-endian order."""

_NAME_OF = {dtype: name for name, dtype in DTYPES.items()}

# What stands in for a dtype that only some machines have, or whose unit is not in the data.
_ADVICE = {
    "f": "float64",
    "c": "complex128",
    "M": "int64",
    "m": "int64",
}


def native_name(dtype: Dtype) -> str | None:
    """The wire's name of ``dtype`` if an array of it can travel as it is, else None."""
    return _NAME_OF.get(dtype) or _ml_name(dtype)


def _ml_name(dtype: Dtype) -> str | None:
    # Recognised by name: whoever made the array has the package, and it need not be imported here.
    return dtype.name if ML_DTYPES.get(dtype.name) == dtype.itemsize and dtype.names is None else None


@functools.lru_cache(maxsize=len(NAMES))
def dtype_named(name: str) -> Dtype:
    """The numpy dtype that ``name`` stands for; ``object`` for BYTES and JSON.

    Raises:
        ProtocolError: The wire format has no such name.
        InvalidInput: The dtype needs ``ml_dtypes``, which is missing or too old here.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name in (BYTES, JSON):
        return np.dtype(object)
    if name not in ML_DTYPES:
        raise ProtocolError(f"unknown dtype {name!r}; the wire format has {', '.join(sorted(NAMES))}")
    try:
        import ml_dtypes
    except ImportError as error:
        raise InvalidInput(f"dtype {name} needs the package ml_dtypes here: pip install ml_dtypes") from error
    kind = getattr(ml_dtypes, name, None)
    if kind is None:
        raise InvalidInput(f"ml_dtypes {ml_dtypes.__version__} has no {name}: pip install --upgrade ml_dtypes")
    dtype: Dtype = np.dtype(kind)
    return dtype


def advice(dtype: Dtype) -> str:
    """What to do with an array whose dtype cannot travel."""
    if dtype.names is not None:
        return "send each field as a tensor of its own"
    if dtype.kind in _ADVICE:
        return f"convert it with .astype('{_ADVICE[dtype.kind]}')"
    return f"convert it to one of {', '.join(DTYPES)}, bytes or text"
