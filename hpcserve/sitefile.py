"""Site files as tables: reading one, laying one over another, telling which of them says something, or is wrong. Pure.

What the fields mean is told in :mod:`hpcserve.config`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hpcserve.errors import ConfigError
from hpcserve.tables import expected

_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_UNKNOWN = re.compile("object contains unknown field `(.*)`", re.DOTALL)

_OWN = re.compile(r"(\w+): (expected .*)", re.DOTALL)
"""What the check of a whole table says of one of its fields."""


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A site file that was read.

    Attributes:
        source: What to call it in errors.
        name: The name of its site.
        base: The site that it stands on; None: it stands on its own.
        table: What it says itself.
    """

    source: str
    name: str
    base: str | None
    table: Mapping[str, Any]


def parsed(source: str, name: str, text: str) -> SiteFile:
    """The site file with this text.

    Raises:
        ConfigError: It is no TOML, says nothing, or its ``base`` is no text.
    """
    table = _table(source, text)
    if not table:  # perhaps a copy that a full disk cut off: its pilots would run on the login node
        raise ConfigError(f'{source}: empty: it says nothing; for a site like local write base = "local"')
    return _of(source, name, table)


def head(source: str, name: str, text: str) -> SiteFile:
    """What the site file with this text says before its first table, be the rest right or wrong.

    Raises:
        ConfigError: As :func:`parsed`, of that part.
    """
    found = _TABLE.search(text)
    if found is None:
        return parsed(source, name, text)
    return _of(source, name, _table(source, text[: found.start()]))


def _table(source: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from error


def _of(source: str, name: str, table: dict[str, Any]) -> SiteFile:
    base = table.pop("base", None)
    if not isinstance(base, str | None):
        raise ConfigError(f"{source}: base: expected the name of a site or the path of its file, got {base!r}")
    return SiteFile(source, name, base, table)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``over``: tables are merged, everything else is replaced, lists too."""
    both = {
        key: merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }
    return {**base, **both}


def value_of(table: Mapping[str, Any], field: str) -> Any:
    """The value of a field, such as ``pilots.slots``; None: there is none."""
    told: Any = table
    for key in field.split("."):
        told = told.get(key) if isinstance(told, dict) else None
    return told


def source_of(layers: Sequence[SiteFile], field: str) -> str:
    """The file that says something of a field, such as ``pilots.slots``: of several, and of none, the first one."""
    return next((each.source for each in layers if value_of(each.table, field) is not None), layers[0].source)


def explained(
    layers: Sequence[SiteFile],
    error: msgspec.ValidationError,
    struct: type,
    fields: Callable[[str], Sequence[str]],
    queue: str = "",
) -> str:
    """``Expected … - at `$.pilots.walltime_s` `` as ``FILE: pilots.walltime_s: expected …, got …``.

    Args:
        layers: The files of the site.
        error: What is wrong with them.
        struct: What they become.
        fields: The fields that a table has; that of the whole file is called "".
        queue: The queue that it is wrong with, which the error does not name.
    """
    text, _, place = str(error).partition(" - at `$")
    field = place.rstrip("`").lstrip(".").replace("queues[...]", f"queues.{queue}")
    told = text[:1].lower() + text[1:]
    unknown = _UNKNOWN.fullmatch(told)
    if unknown is not None:
        told = _unknown(unknown[1], fields(field))
    source = source_of(layers, ".".join(filter(None, (field, unknown[1] if unknown else ""))))
    own = _OWN.fullmatch(told)
    if own is not None:
        field, told = f"{field}.{own[1]}", own[2]
    else:
        value = next((value for each in layers if (value := value_of(each.table, field)) is not None), None)
        told = expected(told, struct, field, value)
    return f"{source}: {field}: {told}" if field else f"{source}: {told}"


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown field {name!r}; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}")
