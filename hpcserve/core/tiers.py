"""By which way a result comes to its client: in its message, by a path, by HTTPS, by a transfer. Pure."""

from __future__ import annotations

from typing import Literal

Tier = Literal["path", "https", "transfer"]
AUTO, INLINE, STAGED, HTTPS = "auto", "inline", "staged", "https"
"""How a client wants its result, on the wire. ``https``: as ``auto``, but a file is of use up to a size only."""


def reply_for(*, visible: bool, destination: bool, https_limit_bytes: int) -> str:
    """What a client asks for that leaves it to us how a result comes.

    Args:
        visible: Whether it sees the site's file system.
        destination: Whether it has named a collection for what cannot come otherwise.
        https_limit_bytes: Up to so many bytes a result may come by HTTPS; 0: none.
    """
    if visible or destination:
        return AUTO
    return HTTPS if https_limit_bytes else INLINE


def is_staged(
    size_bytes: int, reply: str, *, inline_limit_bytes: int, https_limit_bytes: int, most_inline_bytes: int
) -> bool:
    """Whether a result goes to a file, and does not travel in its message.

    Args:
        size_bytes: Of the result.
        reply: How its client wants it.
        inline_limit_bytes: A larger one is not to travel in its message.
        https_limit_bytes: A larger one does not come by HTTPS.
        most_inline_bytes: A larger one cannot travel in its message.
    """
    if reply == STAGED:
        return True
    if reply not in (AUTO, HTTPS) or size_bytes <= inline_limit_bytes:
        return False
    return reply == AUTO or size_bytes <= https_limit_bytes or size_bytes > most_inline_bytes


def tier(
    size_bytes: int,
    *,
    visible: bool,
    https: bool,
    https_limit_bytes: int,
    destination: bool = False,
) -> Tier | None:
    """The way of one result that is in a file; None: there is none.

    Args:
        size_bytes: Of its file.
        visible: Whether the client sees the file's path, and the file there.
        https: Whether the file lies on a collection that can be read by HTTPS.
        https_limit_bytes: Up to so many bytes that is done.
        destination: Whether the client named a collection that it is to go to if it cannot come otherwise.
    """
    if visible:
        return "path"
    if https and size_bytes <= https_limit_bytes:
        return "https"
    return "transfer" if destination else None
