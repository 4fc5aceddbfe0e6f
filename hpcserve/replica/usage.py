"""How much of a quota a caller's files take: counted on the disk, and remembered between two results.

Counted is whatever lies in the caller's directory and below it, also what a servable's own code has put there. What is
remembered is what was counted last and what this replica has written since, for so long that what others write
meanwhile is soon seen; where it says that there is no room, it is counted again first.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

REMEMBERED_S = 5.0
DEEPEST = 32
"""So many directories one in the other are looked into; a deeper one takes all there is, as far as a quota goes."""
_BLOCK_BYTES = 512
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Counted(NamedTuple):
    used_bytes: int
    at_s: float


class Usage:
    """What the files of callers take.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted: dict[str, _Counted] = {}

    def used_bytes(self, caller: str, directory: int, *, room_for: int, quota_bytes: int) -> int:
        """What a caller's files take; as it is on the disk, where ``room_for`` more is over the quota.

        Args:
            caller: The name of the caller's directory.
            directory: Its descriptor.
            room_for: The bytes that are to be written.
            quota_bytes: How much there may be.
        """
        now = self._clock()
        known = self._counted.get(caller)
        if known is None or now - known.at_s > REMEMBERED_S or known.used_bytes + room_for > quota_bytes:
            self._counted = {name: each for name, each in self._counted.items() if now - each.at_s <= REMEMBERED_S}
            known = self._counted[caller] = _Counted(counted_bytes(directory, quota_bytes), now)
        return known.used_bytes

    def add(self, caller: str, size_bytes: int) -> None:
        """A file has been written."""
        known = self._counted.get(caller)
        if known is not None:
            self._counted[caller] = known._replace(used_bytes=known.used_bytes + size_bytes)


def counted_bytes(directory: int, enough_bytes: int, deepest: int = DEEPEST) -> int:
    """What everything in an open directory takes on the disk; no link is followed.

    Counting ends once it is over ``enough_bytes``.
    """
    used = 0
    with os.scandir(directory) as children:
        for child in children:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it has just been removed, or replaced
                told = child.stat(follow_symlinks=False)
                used += told.st_blocks * _BLOCK_BYTES
                if stat.S_ISDIR(told.st_mode) and used <= enough_bytes:
                    used += _below(directory, child.name, enough_bytes - used, deepest - 1)
            if used > enough_bytes:
                break
    return used


def _below(directory: int, name: str, enough_bytes: int, deepest: int) -> int:
    if not deepest:
        return enough_bytes + 1
    descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        return counted_bytes(descriptor, enough_bytes, deepest)
    finally:
        os.close(descriptor)
