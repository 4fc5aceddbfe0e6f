"""From a call's outputs to files and to the screen."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from hpcserve.cli.terminal import note
from hpcserve.errors import ConfigError
from hpcserve.wire.dtypes import DTYPES

if TYPE_CHECKING:
    from hpcserve.client.outputs import Outputs

Array = np.ndarray[Any, Any]

HDF5 = ".h5"
SUFFIXES = (".npy", ".npz", ".json", HDF5)
MOST_CHARACTERS = 4000
"""A longer answer is summed up where a person reads it; a file or a pipe gets all of it."""
FIRST_ELEMENTS = 8
FIRST_CHARACTERS = 60


def check_output(output: str) -> None:
    """Refuses, before the call, an output that could not be written after it.

    Raises:
        ConfigError: Its format is unknown, or its directory does not exist.
    """
    if output == "-":
        return
    path = Path(output)
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--output {output}: expected a name that ends in {', '.join(SUFFIXES)}, or -")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {output}: directory {path.parent} does not exist")


def check_items_output(output: str) -> None:
    """Refuses, before the call, what the items of a stream cannot be written to.

    Raises:
        ConfigError: It is not a .json file.
    """
    if output != "-" and Path(output).suffix != ".json":
        raise ConfigError(f"--output {output}: the items of a stream are JSON, one a line: write a .json file, or -")


def is_hdf5(output: str | None) -> bool:
    """Whether an output is to be an HDF5 file."""
    return output is not None and Path(output).suffix == HDF5


def write_hdf5(outputs: Outputs, output: str) -> None:
    """Copies the file that a result came in, once it was found to be whole.

    Raises:
        ConfigError: The result came in its message, or the file cannot be written.
        HpcserveError: The file of the result is damaged, or gone.
    """
    if outputs.staged is None:
        raise ConfigError(f"--output {output}: the result came in its message; leave --reply out, or write a .npz")
    outputs.staged.verify()
    try:
        shutil.copyfile(outputs.staged.path, output)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from error


def show_staged(outputs: Outputs) -> None:
    """Shows where a result is on the site, and what. What came here of it goes when the command ends."""
    told = {name: f"{value.dtype}{list(value.shape)}" for name, value in outputs.items()}
    file = outputs.staged
    place = None if file is None else file.site_path if file.own else str(file.path)
    if file is not None and file.own:
        note(
            "the result came by HTTPS: its file is on the site for a time, where this machine does not see it; to have "
            "it in one here: --output FILE.h5"
        )
    typer.echo(json.dumps({"staged": place, "outputs": told}, ensure_ascii=False))


def write(outputs: Mapping[str, Any], output: str) -> None:
    """Writes the outputs to a file, or as JSON to standard output for ``-``.

    Raises:
        ConfigError: The file cannot be written, or its format cannot hold the outputs.
    """
    if output == "-":
        typer.echo(as_json(outputs))
        return
    path = Path(output)
    try:
        if path.suffix == ".json":
            path.write_text(as_json(outputs) + "\n")
        elif path.suffix == ".npz":
            _write_npz(path, outputs)
        else:
            np.save(path, _only(outputs, output), allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from error


def write_items(items: Iterable[Mapping[str, Any]], output: str | None) -> None:
    """Writes the items of a stream as they come, each as JSON on a line of its own.

    Raises:
        ConfigError: The file cannot be written.
    """
    if output in (None, "-"):
        for item in items:
            typer.echo(as_json(item))
        return
    try:
        with Path(str(output)).open("w") as file:
            for item in items:
                file.write(as_json(item) + "\n")
                file.flush()
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from error


def _write_npz(path: Path, outputs: Mapping[str, Any]) -> None:
    # Not by numpy.savez: it takes the names as keywords, and has two of its own.
    arrays = {name: _storable(name, value) for name, value in outputs.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def show(outputs: Mapping[str, Any]) -> None:
    """Shows the outputs: as JSON, or where that is long and a person reads it, summed up."""
    text = as_json(outputs)
    if len(text) <= MOST_CHARACTERS or not sys.stdout.isatty():
        typer.echo(text)
        return
    for name, value in outputs.items():
        typer.echo(f"{name}: {_summary(value)}")
    typer.echo("(all of it: --output FILE.npy, .npz or .json, or - for JSON here)", err=True)


def as_json(outputs: Mapping[str, Any]) -> str:
    """The outputs as one JSON object. BYTES are text, or ``{"base64": …}`` where they are not UTF-8; NaN is null."""
    return json.dumps({name: _plain(value) for name, value in outputs.items()}, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype == object:
        return _nested(value, _text)
    if value.dtype.kind == "c":
        return _nested(value.astype(object), lambda one: [_finite(one.real), _finite(one.imag)])
    if value.dtype.kind in "biu":
        return value.tolist()
    wide = value.astype(np.float64)
    return wide.tolist() if np.isfinite(wide).all() else _nested(wide.astype(object), _finite)


def _nested(array: Array, convert: Any) -> Any:
    """The array as nested lists, each element converted."""
    if array.ndim == 0:
        return convert(array.item())
    return [_nested(np.asarray(row, dtype=object), convert) if array.ndim > 1 else convert(row) for row in array]


def _text(element: bytes) -> Any:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(element).decode()}


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _only(outputs: Mapping[str, Any], output: str) -> Array:
    if len(outputs) != 1:
        raise ConfigError(f"{output} holds one array, and the outputs are {', '.join(outputs)}: write a .npz instead")
    ((name, value),) = outputs.items()
    return _storable(name, value)


def _storable(name: str, value: Any) -> Array:
    """An array that numpy writes without pickle, and reads back the same."""
    if not isinstance(value, np.ndarray):
        raise ConfigError(f"output {name!r} is a JSON value: write a .json file")
    if value.dtype == object:
        if any(element.endswith(b"\0") for element in value.flat):
            raise ConfigError(f"output {name!r} has bytes that end in NUL, which numpy would drop: write a .json file")
        return value.astype(np.bytes_)
    if value.dtype not in DTYPES.values():
        raise ConfigError(f"output {name!r} is {value.dtype}, which numpy cannot store: write a .json file")
    return value


def _summary(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return _cut(json.dumps(value, ensure_ascii=False))
    kind = "BYTES" if value.dtype == object else str(value.dtype)
    first = _plain(value.reshape(-1)[:FIRST_ELEMENTS]) if value.ndim else [_plain(value)]
    shown = " ".join(_cut(json.dumps(one, ensure_ascii=False)) for one in first)
    return f"{kind}{list(value.shape)} {shown}{' …' if value.size > FIRST_ELEMENTS else ''}"


def _cut(text: str) -> str:
    if len(text) <= FIRST_CHARACTERS:
        return text
    return f"{text[:FIRST_CHARACTERS]}… ({len(text):,} characters)"
