"""Which nodes of a pilot get a copy of an image together, and which older copies of a node make room for it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of an image that a node has.

    Attributes:
        name: What tells it from the others.
        size_bytes: Of its file.
        used_s: When it was wanted last, by any clock that all copies of a node share.
        busy: Whether something runs from it, or is about to.
    """

    name: str
    size_bytes: int
    used_s: float
    busy: bool = False


def to_remove(copies: Iterable[Copy], *, size_bytes: int, limit_bytes: int, free_bytes: int) -> tuple[str, ...] | None:
    """Which copies a node gives up for one more, those first that were wanted longest ago.

    Args:
        copies: What it has.
        size_bytes: Of the new one.
        limit_bytes: All copies together may be so large.
        free_bytes: Room on the node's disk.

    Returns:
        Their names, no more than needed; None where there is no room for it even then.
    """
    held = list(copies)
    over_bytes = max(sum(copy.size_bytes for copy in held) + size_bytes - limit_bytes, size_bytes - free_bytes)
    removed = []
    for copy in sorted(held, key=lambda copy: (copy.used_s, copy.name)):
        if over_bytes <= 0:
            break
        if not copy.busy:
            removed.append(copy.name)
            over_bytes -= copy.size_bytes
    return tuple(removed) if over_bytes <= 0 else None


def groups(wanted: Collection[str], nodes: Sequence[str], *, together: bool) -> tuple[tuple[str, ...], ...]:
    """The nodes that get the image at once, as they are to be started.

    Args:
        wanted: The nodes that want it.
        nodes: All of the pilot that can be used, the agent's own first.
        together: Whether processes on several nodes can tell one another what one of them reads.

    Returns:
        Groups of nodes. The first of a group of several reads the image, or has it; it is the agent's own node, whether
        that wants it or not, so that the shared file system is read once for all that is wanted now and later.
    """
    listed = tuple(node for node in nodes if node in wanted)
    if not listed:
        return ()
    if not together:
        return tuple((node,) for node in listed)
    return ((nodes[0], *(node for node in listed if node != nodes[0])),)
