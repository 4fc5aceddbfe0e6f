"""What a fork does to a client: in the child it is unusable, and says so.

ZeroMQ's sockets and our threads do not cross a fork. A lock that another thread held is held for ever in the
child, and the descriptors are still those of the parent's connection. So the child neither waits for the
one nor touches the other. It is told at the fork itself: a call pays nothing for it.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from hpcserve.errors import InvalidInput

T = TypeVar("T")


def watch(owner: T, tell: Callable[[T], None], *belongings: object) -> None:
    """In a forked child, ``tell(owner)`` is called before anything else runs.

    Args:
        owner: It is forgotten when nobody else refers to it.
        tell: A function that does not refer to the owner, such as an unbound method.
        belongings: What the child must keep alive: its destructor would act on the parent's connection.
    """
    _watched[owner] = tell, belongings


def keep(belonging: object) -> None:
    """In a forked child, keeps one more thing of its parent alive."""
    _kept.append(belonging)


def unusable() -> InvalidInput:
    """The error of each call in the child."""
    return InvalidInput(
        f"this client was made before process {os.getpid()} was forked, and works in the parent alone: "
        "make a Client in each process"
    )


_watched: weakref.WeakKeyDictionary[Any, tuple[Callable[[Any], None], tuple[object, ...]]] = weakref.WeakKeyDictionary()
_kept: list[object] = []


def _tell_all() -> None:
    for owner, (tell, belongings) in list(_watched.items()):
        keep(belongings)
        tell(owner)
    _watched.clear()


os.register_at_fork(after_in_child=_tell_all)
