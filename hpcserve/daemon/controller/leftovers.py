"""What lies in subdirectories of callers' directories where one account serves many: no result, but kept for a while.

A caller has put it there to publish it or to refer to it, or a servable's code has written it. It is removed when it
has not been changed for long enough, by the time that the file system itself notes (``st_ctime``), which no program can
set back. Nothing is opened or removed through a symbolic link.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator

from hpcserve.core.spelling import printable

_log = logging.getLogger(__name__)

DEEPEST = 64
"""What lies in still more directories one in the other stays, and is told in the log."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prune_below(directory: str, until_s: float) -> int:
    """Removes what lies in subdirectories and was last changed before ``until_s``; returns how many files that were.

    A directory from which the last one was removed is removed with it.

    Args:
        directory: That of all callers.
        until_s: Seconds since 1970.
    """
    try:
        above = os.open(directory, _DIRECTORY & ~os.O_NOFOLLOW)
    except OSError:
        return 0  # without the directory, results travel in their messages, which the log has been told
    removed = 0
    try:
        for caller in _directories(above):
            with _looking(f"{directory}/{caller}"), _opened(above, caller) as own:
                for name in _directories(own):
                    removed += _prune(own, name, until_s, f"{directory}/{caller}/{name}", DEEPEST)
    finally:
        os.close(above)
    return removed


def _prune(above: int, name: str, until_s: float, path: str, deepest: int) -> int:
    if not deepest:
        _log.warning(
            "%s lies in more than %d directories of its caller, and is not looked into", printable(path), DEEPEST
        )
        return 0
    removed = 0
    with _looking(path), _opened(above, name) as here:
        for child in _directories(here):
            removed += _prune(here, child, until_s, f"{path}/{child}", deepest - 1)
        with os.scandir(here) as children:
            names = [child.name for child in children]
        for each in names:
            with contextlib.suppress(FileNotFoundError):  # it has just been removed
                told = os.stat(each, dir_fd=here, follow_symlinks=False)
                if not stat.S_ISDIR(told.st_mode) and told.st_ctime < until_s:
                    os.unlink(each, dir_fd=here)
                    removed += 1
    if removed:
        with contextlib.suppress(OSError):  # something is in it, or it is another's by now
            os.rmdir(name, dir_fd=above)
    return removed


@contextlib.contextmanager
def _looking(path: str) -> Iterator[None]:
    """One directory that cannot be looked into is no reason to leave the others as they are."""
    try:
        yield
    except OSError as error:
        _log.warning("what lies in %s cannot be removed: %s", printable(path), error)


def _directories(here: int) -> list[str]:
    with os.scandir(here) as children:
        return [child.name for child in children if child.is_dir(follow_symlinks=False)]


@contextlib.contextmanager
def _opened(above: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, _DIRECTORY, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
