"""The names of the element types that travel, and what else can be said of them without numpy.

An agent reads manifests and touches no array, so it need not wait for numpy's import.
"""

from __future__ import annotations

BYTES = "BYTES"
"""Elements of any length, each after its length as in the Open Inference Protocol."""

JSON = "JSON"
"""One JSON value, in a frame of UTF-8."""

REFERENCE = "REFERENCE"
"""A tensor that is not in the message but in a file: its frame is the URI. No method declares it."""

NUMPY_TYPES: dict[str, str] = {
    "bool": "?",
    "int8": "<i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "<u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
}
"""The names that numpy alone can hold, with what it calls them in little-endian order."""

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

NAMES = frozenset({*NUMPY_TYPES, *ML_DTYPES, BYTES, JSON})
"""Every dtype name that a tensor's spec may carry."""

MAX_AXES = 32
"""Most axes of a tensor."""
