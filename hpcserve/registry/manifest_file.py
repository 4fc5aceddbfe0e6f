"""Reads ``servable.toml``: the file, its fields, and that the files it names are there.

The servable's code is not run; its declared methods are found by :mod:`hpcserve.registry.discovery`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hpcserve.errors import ManifestError
from hpcserve.servable.loaders import loader_named
from hpcserve.servable.manifest import Manifest, from_table

FILE_NAME = "servable.toml"
MAX_FILE_BYTES = 1 << 20

_BYTE_ORDER_MARK = "\ufeff"
_SAVE = "save it as UTF-8, without a byte order mark"


def read_manifest(directory: Path) -> Manifest:
    """The manifest of the servable in ``directory``. ``~`` in the paths of ``environment`` is expanded.

    Raises:
        ManifestError: There is no manifest, or something in it is wrong; the message has the file and place.
    """
    manifest = from_table(_with_home(_table(directory)), FILE_NAME)
    try:
        loader_named(manifest.loader).check(manifest, directory)
    except ManifestError as error:
        raise ManifestError(f"{FILE_NAME}: {error.message}") from error
    return manifest


def _table(directory: Path) -> dict[str, Any]:
    path = directory / FILE_NAME
    if not directory.is_dir():
        raise ManifestError(f"no directory {directory}")
    if not path.is_file():
        raise ManifestError(f"no {FILE_NAME} in {directory}; a servable is a directory with a {FILE_NAME}")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ManifestError(f"{path}: {path.stat().st_size} bytes; a manifest has at most {MAX_FILE_BYTES}")
        text = path.read_text(encoding="utf-8")
        if text.startswith(_BYTE_ORDER_MARK):
            raise ManifestError(f"{path} begins with a byte order mark; {_SAVE}")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); {_SAVE}") from error
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"{FILE_NAME}: not TOML: {error}") from error


def _with_home(table: dict[str, Any]) -> dict[str, Any]:
    environment = table.get("environment")
    if not isinstance(environment, dict):
        return table
    paths = {
        field: _expanded(field, value)
        for field, value in environment.items()
        if field in ("path", "python") and isinstance(value, str)
    }
    return {**table, "environment": {**environment, **paths}}


def _expanded(field: str, value: str) -> str:
    try:
        return str(Path(value).expanduser())
    except RuntimeError as error:
        raise ManifestError(f"{FILE_NAME}: environment.{field}: {value!r}: {error}") from error
