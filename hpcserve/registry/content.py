"""A servable's content: which files count, and the digest that names them.

What counts: every regular file and every link that stays inside, by its relative path, whether it is
executable, and its bytes. What does not: ``__pycache__``, names that begin with a dot, empty directories,
times, owners. The same content gives the same digest on every machine.

::

    sha256 over, for each path in the order of its bytes:
        kind (F file, X executable file, L link), length of path (8 bytes, big-endian), path,
        length of content (8 bytes, big-endian), content (of a link: the path it leads to, seen from the link)

Where one account serves many, whose directory it is may change it while it is read. So nothing is opened through a
symbolic link below the directory's ``anchor``: the directory itself, or one above it that the service has named.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hpcserve.errors import ManifestError
from hpcserve.types import Digest

BLOCK_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Sink = Callable[[bytes], object]


@dataclass(frozen=True)
class Entry:
    """One file or link. ``target`` is where a link leads, relative to the link's own directory."""

    relative: str
    size_bytes: int
    executable: bool = False
    target: str | None = None


def ignored(name: str) -> bool:
    """Whether a file or directory of this name is no part of the content."""
    return name.startswith(".") or name == "__pycache__"


def entries(root: Path, anchor: Path | None = None) -> list[Entry]:
    """Everything that counts below ``root``, in the order of the digest.

    Raises:
        ManifestError: There is a socket, a FIFO or a device, a link that leads out, or an unreadable directory.
    """
    found = list(_walk(root, root.resolve(), "", anchor or root))
    return sorted(found, key=lambda entry: os.fsencode(entry.relative))


def digest_of(root: Path, listing: list[Entry], anchor: Path | None = None) -> Digest:
    """The digest of the ``listing`` of ``root``.

    Raises:
        ManifestError: A file cannot be read, or changes meanwhile.
    """
    digest = Hashing()
    for entry in listing:
        digest.begin(entry)
        if entry.target is None:
            read_blocks(root, entry, digest.update, anchor=anchor)
    return digest.result()


class Hashing:
    """Builds a digest entry by entry."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def begin(self, entry: Entry) -> None:
        """Starts an entry; the bytes of a file follow by :meth:`update`."""
        path = os.fsencode(entry.relative)
        content = b"" if entry.target is None else os.fsencode(entry.target)
        kind = b"L" if entry.target is not None else b"X" if entry.executable else b"F"
        size = entry.size_bytes if entry.target is None else len(content)
        self._sha256.update(kind + len(path).to_bytes(8, "big") + path + size.to_bytes(8, "big") + content)

    def update(self, block: bytes) -> None:
        """More bytes of the current file."""
        self._sha256.update(block)

    def result(self) -> Digest:
        """The digest of everything so far."""
        return Digest(self._sha256.hexdigest())


def read_blocks(root: Path, entry: Entry, *sinks: Sink, anchor: Path | None = None) -> None:
    """Hands the bytes of a file to each of ``sinks``, block by block.

    Raises:
        ManifestError: It cannot be read, is not a regular file any more, or changed its size.
    """
    path = root / entry.relative
    left = entry.size_bytes
    for block in blocks(path, anchor or root):
        left -= len(block)
        for sink in sinks:
            sink(block)
    if left != 0:
        raise ManifestError(f"{path} changed while it was read; publish again when nothing writes to it")


def blocks(path: Path, anchor: Path) -> Iterator[bytes]:
    """The bytes of a file, without waiting for a FIFO's writer.

    Raises:
        ManifestError: It cannot be read, or is not a regular file any more.
    """
    try:
        descriptor = open_below(anchor, path)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ManifestError(f"{path} is not a regular file any more")
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error


def open_below(anchor: Path, path: Path, flags: int = _FILE) -> int:
    """The descriptor of what lies below ``anchor``, or of it itself, reached through no symbolic link.

    Raises:
        OSError: There is nothing, or a link on the way to it: ENOTDIR; ELOOP where it is one itself.
        ValueError: The path does not begin with the anchor's.
    """
    parts = path.relative_to(anchor).parts
    if ".." in parts:
        raise OSError(errno.EINVAL, "the path goes up by '..'", str(path))
    here = os.open(anchor, _DIRECTORY & ~os.O_NOFOLLOW)
    for index, part in enumerate(parts, 1):
        above = here
        try:
            here = os.open(part, flags if index == len(parts) else _DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return here


def _walk(root: Path, real_root: Path, below: str, anchor: Path) -> Iterator[Entry]:
    for child in _children(root / below, anchor):
        relative = f"{below}/{child.name}" if below else child.name
        if stat.S_ISLNK(child.mode):
            yield Entry(relative, 0, target=_target(root, real_root, relative))
        elif stat.S_ISDIR(child.mode):
            yield from _walk(root, real_root, relative, anchor)
        elif stat.S_ISREG(child.mode):
            yield Entry(relative, child.size_bytes, executable=bool(child.mode & stat.S_IXUSR))
        else:
            raise ManifestError(f"{root / relative} is a socket, a FIFO or a device; a servable has plain files only")


class _Child(NamedTuple):
    name: str
    mode: int
    size_bytes: int


def _children(directory: Path, anchor: Path) -> list[_Child]:
    try:
        descriptor = open_below(anchor, directory, _DIRECTORY)
        try:
            with os.scandir(descriptor) as scan:
                told = [(child.name, child.stat(follow_symlinks=False)) for child in scan if not ignored(child.name)]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ManifestError(f"cannot read directory {directory}: {error.strerror}") from error
    return [_Child(name, status.st_mode, status.st_size) for name, status in told]


def _target(root: Path, real_root: Path, relative: str) -> str:
    """Where the link finally leads, as seen from its own directory in any copy of the tree."""
    link = root / relative
    try:
        real = link.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ManifestError(f"{link} is a link that leads nowhere; remove it") from error
    if not real.is_relative_to(real_root):
        raise ManifestError(f"{link} is a link to {real}, outside the servable's directory; copy the file inside")
    inner = real.relative_to(real_root)
    if any(ignored(part) for part in inner.parts):
        raise ManifestError(f"{link} is a link to {inner}, which is not published (__pycache__ and dot-files are not)")
    return os.path.relpath(inner, Path(relative).parent)
