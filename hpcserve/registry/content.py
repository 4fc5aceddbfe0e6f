"""A servable's content: which files count, and the digest that names them.

What counts: every regular file and every link that stays inside, by its relative path, whether it is
executable, and its bytes. What does not: ``__pycache__``, names that begin with a dot, empty directories,
times, owners. The same content gives the same digest on every machine.

::

    sha256 over, for each path in the order of its bytes:
        kind (F file, X executable file, L link), length of path (8 bytes, big-endian), path,
        length of content (8 bytes, big-endian), content (of a link: the path it leads to, seen from the link)
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcserve.errors import ManifestError
from hpcserve.types import Digest

BLOCK_BYTES = 1 << 20

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


def entries(root: Path) -> list[Entry]:
    """Everything that counts below ``root``, in the order of the digest.

    Raises:
        ManifestError: There is a socket, a FIFO or a device, a link that leads out, or an unreadable directory.
    """
    found = list(_walk(root, root.resolve(), ""))
    return sorted(found, key=lambda entry: os.fsencode(entry.relative))


def digest_of(root: Path, listing: list[Entry]) -> Digest:
    """The digest of the ``listing`` of ``root``.

    Raises:
        ManifestError: A file cannot be read, or changes meanwhile.
    """
    digest = Hashing()
    for entry in listing:
        digest.begin(entry)
        if entry.target is None:
            read_blocks(root, entry, digest.update)
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


def read_blocks(root: Path, entry: Entry, *sinks: Sink) -> None:
    """Hands the bytes of a file to each of ``sinks``, block by block.

    Raises:
        ManifestError: It cannot be read, is not a regular file any more, or changed its size.
    """
    path = root / entry.relative
    left = entry.size_bytes
    for block in _blocks(path):
        left -= len(block)
        for sink in sinks:
            sink(block)
    if left != 0:
        raise ManifestError(f"{path} changed while it was read; publish again when nothing writes to it")


def _blocks(path: Path) -> Iterator[bytes]:
    """Reads without following a link and without waiting for a FIFO's writer."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ManifestError(f"{path} is not a regular file any more")
            while block := file.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror}") from error


def _walk(root: Path, real_root: Path, below: str) -> Iterator[Entry]:
    try:
        with os.scandir(root / below) as scan:
            children = [child for child in scan if not ignored(child.name)]
    except OSError as error:
        raise ManifestError(f"cannot read directory {root / below}: {error.strerror}") from error
    for child in children:
        relative = f"{below}/{child.name}" if below else child.name
        if child.is_symlink():
            yield Entry(relative, 0, target=_target(root, real_root, relative))
        elif child.is_dir(follow_symlinks=False):
            yield from _walk(root, real_root, relative)
        elif child.is_file(follow_symlinks=False):
            status = child.stat(follow_symlinks=False)
            yield Entry(relative, status.st_size, executable=bool(status.st_mode & stat.S_IXUSR))
        else:
            raise ManifestError(f"{root / relative} is a socket, a FIFO or a device; a servable has plain files only")


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
