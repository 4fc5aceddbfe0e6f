"""The end of a message about an unknown name: what the writer probably meant. Decides nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 8
"""How many names a message lists at most."""
LONGEST_NAME = 128
"""Longer ones, which a stranger may send, are neither compared nor repeated in a message."""


def shortened(name: str) -> str:
    """A name for a message."""
    return repr(name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…")


def printable(text: str) -> str:
    """What somebody else says, for a terminal: whatever would steer it is spelt out."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def printable_lines(text: str) -> str:
    """The same of several lines, which stay."""
    return "\n".join(map(printable, text.split("\n")))


def has_controls(text: str) -> bool:
    """Whether a control character is in it, of which urlsplit drops some without a word."""
    return any(each < " " or "\x7f" <= each <= "\x9f" for each in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """What to append to a message that ``name`` is unknown.

    Args:
        name: What was written.
        known: The names that would have been right.

    Returns:
        ``"; did you mean 'x'?"``, else ``"; known: x, y"``, else ``"; there are none"``.
    """
    if len(name) > LONGEST_NAME:
        return f"; a name has at most {LONGEST_NAME} characters"
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(repr(one) for one in close)}?"
    if not names:
        return "; there are none"
    more = ", …" if len(names) > MOST_NAMES else ""
    return f"; known: {', '.join(names[:MOST_NAMES])}{more}"
