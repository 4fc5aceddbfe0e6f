"""From site files to a :class:`~hpcserve.config.sections.Site`: merged, checked, and complete.

Unknown fields are refused, and an error names the file, the field and what was expected. A file with ``base`` stands
on another one: it says only what differs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hpcserve.config.access import Rules
from hpcserve.config.environment import expanded, filled_in, home, site_named, variables_in
from hpcserve.config.files import with_bases
from hpcserve.config.queues import beyond
from hpcserve.config.section import Section
from hpcserve.config.sections import Queue, Site
from hpcserve.config.staging import Collection
from hpcserve.errors import ConfigError
from hpcserve.sitefile import SiteFile, explained, head, merged, source_of

PATHS = ("state_dir", "shared_dir")
MAY_BE_ENDLESS = frozenset({"pilots.idle_s", "staging.keep_undelivered_s"})
"""``inf`` is a number of seconds here: never."""
_CONVERTING = threading.Lock()
"""msgspec learns a type when it first converts to it; two threads that make it learn the same one crash the process."""


def load_site(option: str | None = None) -> Site:
    """The site that the option, the environment or the default names, with all that it requires.

    Raises:
        ConfigError: There is no such site, its file is wrong, or lacks what the site requires.
    """
    layers = with_bases(site_named(option))
    site = _site(layers)
    for field in site.required:
        section, _, name = field.partition(".")
        if not getattr(getattr(site, section, None), name, None):
            raise ConfigError(f"{layers[0].source}: {field}: {_fill_in(site.name, layers[0].source, section, name)}")
    return site


def _fill_in(site: str, source: str, section: str, name: str) -> str:
    own = home() / "sites" / f"{site}.toml"
    where = f'{own}, below a line base = "{site}"' if source.startswith("site_configs/") else source
    return f'{site} wants one; set it in {where}: [{section}] {name} = "…"'


def read_site(option: str | None = None) -> Site:
    """As :func:`load_site`, but what the site requires may be missing.

    Raises:
        ConfigError: There is no such site, or its file is wrong.
    """
    return _site(with_bases(site_named(option)))


def _site(layers: Sequence[SiteFile]) -> Site:
    """The site of these files.

    ``state_dir`` and ``shared_dir`` may use ``~`` and ``$NAME``; without them they lie below :func:`home`.
    """
    table: dict[str, Any] = {}
    for layer in reversed(layers):
        table = merged(table, layer.table)
    name = layers[0].name
    table["name"] = layers[0].table.get("name", name)
    table |= {key: _directory(layers, key) for key in PATHS}
    for field, value in _endless(table):
        raise ConfigError(f"{source_of(layers, field)}: {field}: expected a finite number, got {value}")
    try:
        with _CONVERTING:
            site = msgspec.convert(table, Site, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise ConfigError(explained(layers, error, Site, _fields, _wrong_queue(table.get("queues")))) from error
    for field, queue, limit, told in beyond(site):
        source, of = source_of(layers, field), source_of(layers, f"queues.{queue}.{limit}")
        where = "" if of == source else f" of {of}"
        raise ConfigError(f"{source}: {field}: {told} (queue {queue!r}{where})")
    return site


class Directories(NamedTuple):
    """Those of a site's daemon."""

    state_dir: Path
    shared_dir: Path


def directories_of(option: str | None) -> Directories:
    """What a site's file tells of these before its first table, or its base does; the rest of it may be wrong.

    Raises:
        ConfigError: There is no such site, or what tells it is wrong, too.
    """
    layers = with_bases(site_named(option), head)
    found = {key: _directory(layers, key) for key in PATHS}
    for key, told in found.items():
        if not isinstance(told, str):
            raise ConfigError(f"{source_of(layers, key)}: {key}: expected a path, got {told!r}")
    return Directories(**{key: Path(told) for key, told in found.items()})


def _directory(layers: Sequence[SiteFile], key: str) -> Any:
    """What the files say of one of these, from the root; it may be no text, and wrong."""
    usual = str(home() / "sites" / layers[0].name / key.removesuffix("_dir"))
    told = next((layer.table[key] for layer in layers if key in layer.table), usual)
    if not isinstance(told, str):
        return told
    return str(expanded(filled_in(told, f"{source_of(layers, key)}: {key}")))


def _endless(table: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, float]]:
    """The numbers that are none, or have no end, where that makes no sense."""
    for key, value in table.items():
        field = f"{within}{key}"
        if isinstance(value, Mapping):
            yield from _endless(value, f"{field}.")
        elif isinstance(value, float) and not (math.isfinite(value) or (value > 0 and field in MAY_BE_ENDLESS)):
            yield field, value


def _wrong_queue(queues: object) -> str:
    """The first queue that is wrong, if there is any; msgspec says of it only what."""
    for name, queue in queues.items() if isinstance(queues, dict) else ():
        try:
            with _CONVERTING:
                msgspec.convert(queue, Queue)
        except msgspec.ValidationError:
            return str(name)
    return ""


def variables_of(option: str | None) -> dict[str, str]:
    """What of the environment a site's daemon needs, wherever it runs: its home, and what the site's paths name.

    Raises:
        ConfigError: There is no such site, or its file is wrong.
    """
    paths = [str(layer.table.get(key, "")) for layer in with_bases(site_named(option)) for key in PATHS]
    return {"HPCSERVE_HOME": str(home())} | variables_in(paths)


def _path(kind: type, value: object) -> object:
    """A field that is a Path; msgspec has no type for it."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected a path, got {value!r}")


def _fields(table: str) -> list[str]:
    """All that may stand in a table of a site file; "" is the whole file."""
    tables = {each.name: each.type for each in msgspec.structs.fields(Site)}
    kind = _listed(table) or (tables[table] if table else Site)
    own = [each.name for each in msgspec.structs.fields(kind)]
    return own if table else ["base", *own]


def _listed(table: str) -> type[Section] | None:
    """What of a site file stands within another table."""
    if table.startswith("staging.collections"):
        return Collection
    within: dict[str, type[Section]] = {"queues": Queue, "access": Rules}
    return within[table.partition(".")[0]] if "." in table else None
