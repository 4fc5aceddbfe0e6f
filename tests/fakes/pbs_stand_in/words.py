"""How OpenPBS 23.06 writes: its JSON, its times, its numbers."""

from __future__ import annotations

import time
from typing import Any

Raw = int | str | list[str] | dict[str, Any]


class Number(str):
    """Text that stands in JSON without quotes."""

    __slots__ = ()


def value(text: str) -> str:
    """What looks like a number to strtod(3) stands there without quotes: a variable, even a job's name."""
    try:
        float(text)
    except ValueError:
        return text
    return text if "_" in text else Number(text)


def as_json(found: Raw, depth: int = 0) -> str:
    """JSON as the recordings have it, to the tab."""
    if isinstance(found, dict):
        inside = "\t" * (depth + 1)
        lines = ",\n".join(f"{inside}{_quoted(name)}:\t{as_json(each, depth + 1)}" for name, each in found.items())
        return "{\n" + (lines + "\n" if lines else "") + "\t" * depth + "}"
    if isinstance(found, list):
        return "[" + ", ".join(_quoted(each) for each in found) + "]"
    return str(found) if isinstance(found, int | Number) else _quoted(found)


def date(at_s: float) -> str:
    """``Sat Nov 21 00:36:51 2026``, in local time."""
    return time.ctime(at_s)


def day(at_s: float) -> str:
    """``Sat Nov 21 at 00:36``, as comments have it."""
    return time.strftime("%a %b %d at %H:%M", time.localtime(at_s))


def span(seconds: float) -> str:
    """``00:05:00``."""
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{second:02}"


def seconds_of(text: str) -> int:
    """Of ``[[HH:]MM:]SS``; ValueError otherwise."""
    total = 0
    for part in text.split(":"):
        if not part.isdigit():
            raise ValueError(text)
        total = total * 60 + int(part)
    return total


def _quoted(text: str) -> str:
    # Control characters other than these are not escaped. Source: pbs_json.c of OpenPBS.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    for character, written in (("\b", "b"), ("\f", "f"), ("\n", "n"), ("\r", "r"), ("\t", "t")):
        escaped = escaped.replace(character, "\\" + written)
    return f'"{escaped}"'
