"""docs/reference/configuration.md names every field and variable that the program reads, as it reads them."""

from __future__ import annotations

import math
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from hpcserve.config import Collection, Queue, Rules, Section, Site, environment

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
SECTIONS = {
    name: kind
    for name, kind in typing.get_type_hints(Site).items()
    if isinstance(kind, type) and issubclass(kind, Section)
} | {"queues.NAME": Queue, "access.LIST": Rules, "staging.collections": Collection}
TABLES = {name.partition(".")[0] for name in SECTIONS}


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the one table below a heading, by their first cell."""
    found = re.findall(rf"^### {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{len(found)} sections are called {heading}"
    lines = [line for line in found[0].splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first.strip("`"): rest for first, *rest in cells}


def spelled(name: str, kind: Any) -> str:
    """A field's type as the page writes it; the unit is that of its name."""
    bounds = ""
    if typing.get_origin(kind) is Annotated:
        kind, meta = typing.get_args(kind)
        if meta.gt is not None:
            bounds = f" > {meta.gt}"
        elif meta.le is not None:
            bounds = f" {meta.ge} to {meta.le}"
        else:
            bounds = f" ≥ {meta.ge}"
    if typing.get_origin(kind) is Literal:
        return " or ".join(f'`"{each}"`' for each in typing.get_args(kind))
    listed = typing.get_args(kind)[:1]
    if listed and isinstance(listed[0], type) and issubclass(listed[0], Section):
        return "list of tables"
    noun = {float: "number", int: "integer", str: "text", Path: "path", bool: "true or false"}.get(
        kind, "list of texts"
    )
    unit = {"_s": ", seconds", "_bytes": ", bytes", "_mib": ", MiB"}.get(name[name.rfind("_") :], "")
    return f"{noun}{bounds}{unit}"


def table_of(kind: type[msgspec.Struct], heading: str) -> None:
    documented = rows(heading)
    hints = typing.get_type_hints(kind, include_extras=True)
    tables = TABLES | {name for name, hint in hints.items() if hint is Rules}
    fields = {field.name: field for field in msgspec.structs.fields(kind) if field.name not in tables}
    assert list(documented) == list(fields)
    for name, field in fields.items():
        type_cell, default_cell, meaning = documented[name]
        assert type_cell == spelled(name, hints[name]), name
        assert meaning, name
        if field.default is not msgspec.NODEFAULT:
            assert default_cell.split(" ")[0].strip("`") == _plain(field.default), name
        else:
            assert default_cell, f"{name}: say what it is when it is left out"


def _plain(default: object) -> str:
    if isinstance(default, tuple):
        return f"[{','.join(map(_plain, default))}]"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return str(int(default)) if 1e6 <= default < math.inf else f"{default:g}"
    return f'"{default}"' if isinstance(default, str) else str(default)


def test_the_top_of_the_file() -> None:
    table_of(Site, "Top level")


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section(name: str) -> None:
    table_of(SECTIONS[name], f"[{name}]")


def test_no_section_is_invented() -> None:
    assert set(re.findall(r"^### \[([\w.]+)\]$", PAGE, re.MULTILINE)) == set(SECTIONS)


def test_the_environment() -> None:
    source = Path(environment.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r'environ\.get\("(\w+)"\)', source)) == set(rows("Environment variables"))


def test_a_section_is_a_plain_struct() -> None:
    """What :func:`spelled` relies on: no unions."""
    for kind in SECTIONS.values():
        assert not any(isinstance(hint, types.UnionType) for hint in typing.get_type_hints(kind).values())
