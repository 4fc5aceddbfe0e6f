"""Files and directories that belong to one user alone, written whole or not at all.

A directory is 0700 and a file 0600 and both are ours, or they are refused: what others may write is no
proof of anything, and what others may read is no secret. Decides nothing about what the files hold.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from hpcserve.errors import ConfigError, HpcserveError, StorageFull

_OTHERS = 0o077
_OTHERS_WRITE = 0o022
NOT_OURS_TO_WRITE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""What is refused so is refused until somebody changes something."""


def private_directory(path: Path, *, secret: bool = True) -> Path:
    """The directory ``path``, made with mode 0700 where it is missing (its missing parents too).

    Args:
        path: The directory.
        secret: Whether others must not even enter it; write to it they must not in any case.

    Raises:
        ConfigError: It is somebody else's, its mode is too wide, or it cannot be made.
        StorageFull: The disk is full.
    """
    try:
        for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise storage_error(error, f"cannot make directory {path}") from error
    _refuse_open(path, found, secret=secret)
    return path


def check_directory(path: Path, *, secret: bool = True) -> bool:
    """Looks whether :func:`private_directory` would have anything against ``path``, and makes nothing.

    Returns:
        Whether it is there.

    Raises:
        ConfigError: It is somebody else's, its mode is too wide, or it is not there and cannot be made.
    """
    try:
        if path.exists():
            _refuse_open(path, path.stat(), secret=secret)
            return True
        above = next(each for each in path.parents if each.exists())
    except OSError as error:
        raise storage_error(error, f"cannot look at directory {path}") from error
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be made in {above}; name another place")
    return False


def _refuse_open(path: Path, found: os.stat_result, *, secret: bool) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is not a directory; move it away, or name another place")
    _refuse_foreign(path, found)
    if found.st_mode & (_OTHERS if secret else _OTHERS_WRITE):
        mode, verb = stat.S_IMODE(found.st_mode), "enter" if secret else "write to"
        raise ConfigError(f"directory {path} has mode {mode:04o}, so others may {verb} it; run: chmod 700 '{path}'")


def read_private(path: Path, *, secret: bool) -> bytes:
    """The content of a file of ours.

    Args:
        path: The file.
        secret: Whether others must not even read it; write it they must not in any case.

    Raises:
        FileNotFoundError: There is none.
        ConfigError: It is somebody else's, its mode is too wide, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    _refuse_foreign(path, found)
    if found.st_mode & (_OTHERS if secret else _OTHERS_WRITE):
        mode, verb = stat.S_IMODE(found.st_mode), "read" if secret else "write"
        raise ConfigError(f"{path} has mode {mode:04o}, so others may {verb} it; run: chmod 600 '{path}'")
    return content


def create(path: Path, content: bytes, *, only_if: Callable[[], bool] = lambda: True) -> bool:
    """Makes the file ``path`` with ``content``, whole, unless there is one; False when it was not made.

    A hard link to a finished file is atomic on NFS too, where O_EXCL has not always been.

    Args:
        path: The file.
        content: All of it.
        only_if: Asked when the content is on disk; False: the file is not made.

    Raises:
        StorageFull: The disk is full; nothing is left behind.
        ConfigError: The file cannot be made for another reason.
    """
    try:
        with _finished(path, content) as finished:
            if not only_if():
                return False
            try:
                os.link(finished, path)
            except OSError:
                # NFS may repeat a request whose answer was lost; the link count tells the truth.
                if finished.stat().st_nlink == 2:
                    return True
                raise
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_error(error, f"cannot make {path}") from error
    return True


def replace(path: Path, content: bytes) -> None:
    """Makes ``content`` what ``path`` holds; a reader sees the old or the new content, never a part.

    Raises:
        StorageFull: The disk is full; the old content stays.
        ConfigError: The file cannot be written for another reason.
    """
    try:
        with _finished(path, content) as finished:
            finished.replace(path)
    except OSError as error:
        raise storage_error(error, f"cannot write {path}") from error


@contextlib.contextmanager
def _finished(path: Path, content: bytes) -> Iterator[Path]:
    """A file of mode 0600 beside ``path`` that holds ``content`` on disk; gone afterwards."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield draft
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def _refuse_foreign(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to user id {found.st_uid}, not to you ({os.geteuid()}); name another place")


def storage_error(error: OSError, what: str) -> HpcserveError:
    """The error that stands for one of the file system: StorageFull, or ConfigError for all others."""
    if error.errno in StorageFull.errnos:
        return StorageFull(f"{what}: {error.strerror}; make room on this disk or in your quota, and try again")
    if error.errno in NOT_OURS_TO_WRITE:
        return ConfigError(
            f"{what}: {error.strerror}; set HPCSERVE_HOME, or state_dir and shared_dir in a site file, "
            "to a directory that can be written"
        )
    return ConfigError(f"{what}: {error}")
