"""What may stand at a place of a table, such as a manifest's or a site file's, by the struct that it becomes. Pure.

What is wrong with a table says msgspec, which names the place, but neither what is allowed there nor what was found.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"(\w+)|\[(\d+|\.\.\.)\]")
_ENUM = re.compile("invalid enum value (.*)", re.DOTALL)


def fields_at(struct: type, place: str) -> tuple[str, ...]:
    """The fields of the table at a place like ``environment``, ``inputs[0]`` or "", the whole; none: any may stand."""
    found = _at(struct, place)
    return tuple(field.encode_name for field in found.fields) if isinstance(found, inspect.StructType) else ()


def expected(told: str, struct: type, place: str, value: object) -> str:
    """What msgspec says of a value, with what is allowed instead and the value, where that can be shown.

    Args:
        told: Its words, the first letter small.
        struct: What the whole table becomes.
        place: Where the value stands in it.
        value: What was found there; None: nobody knows.
    """
    enum = _ENUM.fullmatch(told)
    found = _at(struct, place) if enum else None
    if enum and isinstance(found, inspect.LiteralType):
        *rest, last = [f'"{each}"' for each in found.values]
        return f"expected {', '.join(rest) + ' or ' * bool(rest)}{last}, got {enum[1]}"
    if not told.startswith("expected ") or not isinstance(value, str | int | float):
        return told
    return told + (f": {value!r}" if "got" in told else f", got {value!r}")


def value_at(table: object, place: str) -> Any:
    """What stands at a place of a table; None: nothing, or the place is not whole."""
    for name, number in _STEP.findall(place):
        if isinstance(table, dict):
            table = table.get(name)
        elif isinstance(table, list | tuple) and number.isdigit() and int(number) < len(table):
            table = table[int(number)]
        else:
            return None
    return table


def _at(struct: type, place: str) -> inspect.Type | None:
    found: inspect.Type | None = inspect.type_info(struct)
    for name, _ in _STEP.findall(place):
        found = _within(_plain(found), name)
    return _plain(found)


def _within(kind: inspect.Type | None, name: str) -> inspect.Type | None:
    """The type of a field, or of the items where there is no name."""
    if isinstance(kind, inspect.StructType):
        return next((field.type for field in kind.fields if field.encode_name == name), None)
    if isinstance(kind, inspect.DictType):
        return kind.value_type
    if isinstance(kind, inspect.VarTupleType | inspect.ListType):
        return kind.item_type
    return None


def _plain(kind: inspect.Type | None) -> inspect.Type | None:
    """A type without what is said of it beside, and where it may be None, without that."""
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        else:
            kind = next((each for each in kind.types if not isinstance(each, inspect.NoneType)), None)
    return kind
