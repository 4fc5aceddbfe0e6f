"""Scopes as they are written: ``a b[c *d[e]]``, each with those that depend on it, an optional one with a star."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hpcserve.testing.globus.records import AUTH

OPENID = frozenset({"openid", "email", "profile"})
_WORDS = re.compile(r"\s+|([][*]|[^][*\s]+)")


@dataclass
class Asked:
    """One scope that is asked for, and what is asked for below it."""

    scope: str
    optional: bool = False
    below: list[Asked] = field(default_factory=list)


def parse(text: str) -> list[Asked]:
    """Read scopes.

    Raises:
        ValueError: The brackets or stars make no sense.
    """
    top: list[Asked] = []
    levels = [top]
    starred = False
    for word in _WORDS.findall(text):
        if not word:
            continue
        if starred and word in "[]*":
            raise ValueError(f"a star before {word!r} in scope {text!r}")
        if word == "*":
            starred = True
        elif word == "[":
            if not levels[-1]:
                raise ValueError(f"nothing before '[' in scope {text!r}")
            levels.append(levels[-1][-1].below)
        elif word == "]":
            levels.pop()
            if not levels:
                raise ValueError(f"a ']' too many in scope {text!r}")
        else:
            levels[-1].append(Asked(word, starred))
            starred = False
    if len(levels) > 1 or starred:
        raise ValueError(f"scope {text!r} ends too early")
    return top


def resource_server(scope: str) -> str:
    """Whose scope it is by its name; empty if that says nothing."""
    if scope in OPENID:
        return AUTH
    if match := re.fullmatch(r"urn:globus:auth:scope:([^:]+):[^:]+", scope):
        return match[1]
    match = re.fullmatch(r"https://auth\.globus\.org/scopes/([^/]+)/[^/]+", scope)
    return match[1] if match else ""
