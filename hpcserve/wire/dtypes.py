"""The element types that travel, by their names on the wire.

Decides which numpy dtype each name stands for and what to advise for the ones that have no name. Holds no
bytes; :mod:`hpcserve.wire.tensor` does the packing.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from hpcserve.errors import InvalidInput, ProtocolError

Dtype = np.dtype[Any]

BYTES = "BYTES"
"""Elements of any length, each after its length as in the Open Inference Protocol."""

JSON = "JSON"
"""One JSON value, in a frame of UTF-8."""

DTYPES: dict[str, Dtype] = {
    "bool": np.dtype("?"),
    "int8": np.dtype("<i1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "uint8": np.dtype("<u1"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "uint64": np.dtype("<u8"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "complex64": np.dtype("<c8"),
    "complex128": np.dtype("<c16"),
}
"""The names that numpy alone can hold, with their dtype in little-endian order."""

ML_DTYPES: dict[str, int] = {
    "bfloat16": 2,
    "float8_e3m4": 1,
    "float8_e4m3": 1,
    "float8_e4m3b11fnuz": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
}
"""The names that need the package ``ml_dtypes``, with the bytes of one element."""

NAMES = frozenset({*DTYPES, *ML_DTYPES, BYTES, JSON})
"""Every dtype name that a tensor's spec may carry."""

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
