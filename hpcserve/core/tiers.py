"""By which way a staged result comes to its client. Pure."""

from __future__ import annotations

from typing import Literal

Tier = Literal["path", "https", "transfer"]


def tier(size_bytes: int, *, visible: bool, https: bool, https_limit_bytes: int, destination: bool) -> Tier | None:
    """The way of one result; None: there is none.

    Args:
        size_bytes: Of its file.
        visible: Whether the client sees the file's path, and the file there.
        https: Whether the file lies on a collection that can be read by HTTPS.
        https_limit_bytes: Up to so many bytes that is done.
        destination: Whether the client named a collection that it is to go to.
    """
    if destination:
        return "transfer"
    if visible:
        return "path"
    if https and size_bytes <= https_limit_bytes:
        return "https"
    return None
