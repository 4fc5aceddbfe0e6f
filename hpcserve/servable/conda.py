"""What the activation of a conda environment sets, read from its prefix. Runs nothing; conda need not be there.

Source: conda's ``activate.py``: the variables of packages, ``etc/conda/env_vars.d/*.json``, then those of
``conda env config vars set``, ``conda-meta/state``; later ones win.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from hpcserve.errors import ManifestError

_UNSET = "***unset***"

T = TypeVar("T")


class _State(msgspec.Struct, frozen=True):
    """``conda-meta/state``; it has more."""

    env_vars: dict[str, str] = {}


def variables(prefix: Path) -> dict[str, str | None]:
    """The variables that the environment at ``prefix`` sets, by name; None: it unsets them.

    Raises:
        ManifestError: A file of it cannot be read.
    """
    found: dict[str, str] = {}
    for path in sorted((prefix / "etc" / "conda" / "env_vars.d").glob("*.json")):
        found.update(_read(path, dict[str, str]))
    state = prefix / "conda-meta" / "state"
    if state.exists():
        found.update(_read(state, _State).env_vars)
    return {name: None if value == _UNSET else value for name, value in found.items()}


def name_of(prefix: Path) -> str:
    """What conda calls the environment: its name below ``envs``, else its path."""
    return prefix.name if prefix.parent.name == "envs" else str(prefix)


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise ManifestError(f"environment.path: cannot read {path}, of the conda environment: {error}") from error
