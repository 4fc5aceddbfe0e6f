"""``authorized_keys``: which public key is whose. A line is ``NAME KEY``, the key in Z85.

Empty lines and those that begin with ``#`` say nothing. A name may have several keys, a key one name only.
The file is read again when it changes; a change that cannot be read changes nothing, and is logged.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from hpcserve.auth.keys import from_z85, to_z85
from hpcserve.auth.private import read_private, replace
from hpcserve.errors import ConfigError

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[^\s#\x00-\x1f\x7f][^\s\x00-\x1f\x7f]{0,127}")

_Stamp = tuple[int, int, int]


def parse(content: bytes, source: str) -> dict[bytes, str]:
    """The names by key of a file's content, which was read from ``source``.

    Raises:
        ConfigError: A line is wrong; the message says which.
    """
    names: dict[bytes, str] = {}
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[0]):
            raise ConfigError(f"{source}:{number}: expected 'NAME KEY', got {len(words)} words")
        try:
            key = from_z85(words[1])
        except ValueError as error:
            raise ConfigError(f"{source}:{number}: {error}") from error
        if names.setdefault(key, words[0]) != words[0]:
            raise ConfigError(f"{source}:{number}: this key is already that of {names[key]!r}; delete one of the lines")
    return names


class AuthorizedKeys:
    """The file, as it is now. Who has no line is nobody, and without a file nobody is anybody.

    Args:
        path: The file; it need not exist.

    Raises:
        ConfigError: The file is wrong, or others may write it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = _stamp(path)
        self._names = _read(path)

    def lookup(self, key: bytes) -> str | None:
        """Whose key this is, by the file as it is now."""
        self.refresh()
        return self._names.get(key)

    def refresh(self) -> bool:
        """Reads the file again if it has changed; True when its keys are others now."""
        stamp = _stamp(self.path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            names = _read(self.path)
        except ConfigError as error:
            _log.error("%s; the keys read before stay in force", error)
            return False
        changed, self._names = names != self._names, names
        return changed


def authorize(path: Path, name: str, key: bytes) -> str:
    """Adds a line for ``key``, unless it has one.

    Returns:
        The name under which the key is known now: ``name``, or the one that it already had.

    Raises:
        ConfigError: The file or the name is wrong.
        StorageFull: The disk is full; the file is as it was.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"not a name for a key: {name!r}; use letters and digits without spaces")
    with _locked(path):
        known = _read(path).get(key)
        if known is not None:
            return known
        content = read_private(path, secret=False) if path.exists() else b"# NAME PUBLIC-KEY, one on each line\n"
        if not content.endswith(b"\n"):
            content += b"\n"
        replace(path, content + f"{name} {to_z85(key)}\n".encode())
    return name


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock on a neighbour of ``path``: the file itself is replaced, and a lock on it would be too."""
    try:
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot lock {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[bytes, str]:
    try:
        return parse(read_private(path, secret=False), str(path))
    except FileNotFoundError:
        return {}


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None  # reading it says why
    return found.st_mtime_ns, found.st_size, found.st_ino
