"""From files to the inputs of a call.

A file's content, not its name, says what it is: ``.npy`` and ``.npz`` begin with known bytes, anything else is JSON.
An array is sent with the dtype it has. JSON has no dtypes: its values become what the method declares, whole numbers
exactly or not at all.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
import zlib
from dataclasses import dataclass
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcserve.cli.reading import NPY, NPZ, Reader, named
from hpcserve.core.spelling import nearest
from hpcserve.errors import ConfigError, InvalidInput
from hpcserve.wire.dtype_names import BYTES, JSON
from hpcserve.wire.dtypes import dtype_named
from hpcserve.wire.jsonvalue import Json
from hpcserve.wire.reference import Reference

if TYPE_CHECKING:
    from hpcserve.servable.manifest import MethodSpec, TensorDecl

Array = np.ndarray[Any, Any]

_NAMED = re.compile(r"([A-Za-z]\w*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class JsonText:
    """A value read from JSON, whose dtype is not known yet."""

    value: Any


def read_inputs(options: list[str], *, most_bytes: int) -> dict[str, Any]:
    """The inputs by name: arrays, references and :class:`JsonText`. The name ``""`` is the only input of a method.

    Args:
        options: ``FILE`` or ``NAME=FILE``; ``-`` is standard input, a URI a :class:`Reference`.
        most_bytes: The largest request that the service takes.

    Raises:
        ConfigError: A file cannot be read, or one name or standard input is given twice.
        InvalidInput: The inputs are larger than that.
    """
    places = [_place(option) for option in options]
    if [file for _, file in places].count("-") > 1:
        raise ConfigError(
            "--input - is given more than once, and standard input can be read once: give the others as files"
        )
    reader = Reader(most_bytes)
    found: dict[str, Any] = {}
    for name, file in places:
        for key, value in _read(name, file, reader).items():
            if key in found:
                what = f"input {key!r} is" if key else "several inputs without a name are"
                raise ConfigError(f"{what} given: write --input NAME=FILE for each, once")
            found[key] = value
    if "" in found and len(found) > 1:
        raise ConfigError("one input has a name and another has none: write --input NAME=FILE for each")
    return found


def needs_declaration(inputs: dict[str, Any]) -> bool:
    """Whether a dtype must be asked for."""
    return any(isinstance(value, JsonText) for value in inputs.values())


def from_json(inputs: dict[str, Any], spec: MethodSpec) -> dict[str, Any]:
    """The inputs, each JSON value as the tensor that the method declares.

    Raises:
        InvalidInput: A name is unknown, or a value cannot become such a tensor.
    """
    declared = {tensor.name: tensor for tensor in spec.inputs}
    only = next(iter(declared)) if len(declared) == 1 else ""
    ready = {}
    for name, value in inputs.items():
        known = name or only
        if isinstance(value, JsonText):
            if known not in declared:
                raise InvalidInput(f"unknown input {known!r}{nearest(known, declared)}")
            ready[known] = _tensor(declared[known], value.value)
        else:
            ready[known] = value
    return ready


def _place(option: str) -> tuple[str, str]:
    """The name and the file of ``[NAME=]FILE``."""
    match = _NAMED.fullmatch(option)
    return (match[1], match[2]) if match else ("", option)


def _read(name: str, file: str, reader: Reader) -> dict[str, Any]:
    source = named(file)
    if file.startswith(("file:", "globus:")):
        return {name: Reference(file)}
    try:
        content = reader.content(file)
        return (
            _arrays(name, content, source, reader) if content.startswith((NPY, NPZ)) else _json(name, content, source)
        )
    except MemoryError as error:
        raise InvalidInput(f"{source}: it needs more memory than there is; send it in parts") from error


def _json(name: str, content: bytes, source: str) -> dict[str, Any]:
    try:
        value = json.loads(content, object_pairs_hook=_object, parse_float=_float)
    except (OverflowError, ConfigError) as error:
        raise ConfigError(f"{source}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is neither .npy nor .npz nor JSON: {error}") from error
    if not name and isinstance(value, dict):
        return {key: JsonText(each) for key, each in value.items()}
    return {name: JsonText(value)}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which each name stands once: of two, Python would drop the first without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in found if names.count(key) > 1)
        raise ConfigError(f"the JSON has {twice!r} more than once in one object; leave one of them")
    return found


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise OverflowError(f"{text} is too large for float64, and with it for every dtype")
    return number


def _arrays(name: str, content: bytes, source: str, reader: Reader) -> dict[str, Any]:
    try:
        if content.startswith(NPY):
            return {name: np.load(io.BytesIO(content), allow_pickle=False)}
        arrays = _unpacked(content, source, reader)
    except (
        ValueError,
        OSError,
        EOFError,
        RuntimeError,
        TypeError,
        TokenError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ConfigError(f"cannot read {source}: {error}") from error
    if not name:
        return arrays
    if len(arrays) != 1:
        raise ConfigError(f"{source} holds {len(arrays)} arrays ({', '.join(arrays)}): give it without {name}=")
    return {name: next(iter(arrays.values()))}


def _unpacked(content: bytes, source: str, reader: Reader) -> dict[str, Any]:
    """The arrays of a ``.npz``, whose size is known before they are unpacked."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        reader.check(source, sum(part.file_size for part in archive.infolist()) - len(content), binary=True)
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        return {key: loaded[key] for key in loaded.files}


def _tensor(tensor: TensorDecl, value: Any) -> Any:
    """The value as the declared tensor, or an error that names both."""
    if tensor.dtype == JSON:
        return Json(value)
    try:
        return _as_text(value) if tensor.dtype == BYTES else _as_numbers(tensor.dtype, value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"input {tensor.name!r}: this JSON is no {tensor.dtype}: {error}") from error


def _as_text(value: Any) -> Array:
    array = np.asarray(value, dtype=object)
    for element in array.flat:
        if not isinstance(element, str):
            raise TypeError(f"expected text, got {element!r}")
    return array


def _as_numbers(name: str, value: Any) -> Array:
    dtype = dtype_named(name)
    if dtype.kind == "c":
        raise TypeError("JSON has no complex numbers; use a .npy file")
    given: Array = np.asarray(value)
    if given.size == 0:
        return given.astype(dtype)
    if dtype.kind == "b" or given.dtype.kind == "b":
        if dtype.kind != given.dtype.kind:
            raise TypeError(
                f"{name} was declared, and {'true and false' if given.dtype.kind == 'b' else 'numbers'} given"
            )
        return given
    if dtype.kind in "iu":
        return _whole(given, dtype)
    # null stands for NaN, as JSON has none; float32 and narrower are rounded to the nearest.
    return _rounded(np.asarray(value, dtype=np.float64), dtype)


def _rounded(given: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):  # said below, with the value
        rounded: Array = given.astype(dtype)
    lost = given[np.isfinite(given) & ~np.isfinite(rounded)]
    if lost.size:
        raise OverflowError(f"{float(lost.flat[0])!r} is too large for {dtype}")
    return rounded


def _whole(given: Array, dtype: np.dtype[Any]) -> Array:
    if given.dtype.kind not in "iuf" or not np.all(np.isfinite(given)) or np.any(given != np.floor(given)):
        raise ValueError("it holds something that is no whole number")
    limits = np.iinfo(dtype)
    if given.min() < limits.min or given.max() > limits.max:
        raise OverflowError(
            f"values from {given.min()} to {given.max()}, but {dtype} holds {limits.min} to {limits.max}"
        )
    return given.astype(dtype)
