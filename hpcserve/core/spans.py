"""Lengths of time and numbers of things in words. Decides nothing."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A length of time as people say it: ``42 s``, ``3 min 5 s``, ``2 h 14 min``, ``3 d 4 h``."""
    whole = max(0, int(seconds))
    for unit, below, length, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {below}"
    return f"{whole} s"


def counted(number: int, noun: str) -> str:
    """``1 request``, ``1,240 requests``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
