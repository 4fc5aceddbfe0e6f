"""The copies of images that one node has, below the site's ``stage_dir``: one directory for each user.

Only who holds the lock of that directory writes there, so a file that is not whole is always one of a process that has
died. Which copies make room for another one is decided in :mod:`hpcserve.core.imagecopies`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from hpcserve.core.imagecopies import Copy, to_remove
from hpcserve.errors import ConfigError, ManifestError

_IMAGE = ".sif"
_PART = ".part"
PIECE_BYTES = 8 << 20
_FRESH_S = 60.0  # of an image that was wanted so lately a container may be about to start, of another pilot too


class NodeCopies:
    """The user's copies on this node.

    Args:
        stage_dir: What the site says.
        limit_bytes: All copies together may be so large.

    Raises:
        ConfigError: There can be no such directory, or it is not this user's alone.
    """

    def __init__(self, stage_dir: Path, limit_bytes: int) -> None:
        self._directory = stage_dir / f"hpcserve-{os.geteuid()}"
        self._limit_bytes = limit_bytes
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            found = self._directory.lstat()
        except OSError as error:
            raise ConfigError(f"containers.stage_dir: {self._directory}: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise ConfigError(
                f"containers.stage_dir: {self._directory} is not a directory of this user alone: others could put "
                "images there; have it removed"
            )

    def path(self, sha256: str) -> Path:
        """Where the copy of an image is, or would be."""
        return self._directory / f"{sha256}{_IMAGE}"

    def holds(self, sha256: str, size_bytes: int) -> bool:
        """Whether there is a copy; it counts as wanted now."""
        path = self.path(sha256)
        try:
            os.utime(path)
            return path.stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    @contextlib.contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Keeps all others from writing; false, if not to ``wait``, where somebody else does."""
        descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _lock(descriptor, wait=wait)
        finally:
            os.close(descriptor)

    def make_room(self, size_bytes: int, using: Collection[str]) -> tuple[str, ...]:
        """Removes what is in the way of a copy; to be called with the lock.

        Args:
            size_bytes: Of the new one.
            using: Images that are in use, whatever this node shows of it.

        Returns:
            The sha256 of what was removed.

        Raises:
            ConfigError: There is no room.
        """
        self._remove_parts()
        room = os.statvfs(self._directory)
        free_bytes = room.f_bavail * room.f_frsize
        copies = list(self._copies(using))
        names = to_remove(copies, size_bytes=size_bytes, limit_bytes=self._limit_bytes, free_bytes=free_bytes)
        if names is None:
            raise ConfigError(
                f"containers.stage_dir: no room for {_mb(size_bytes)} in {self._directory}: {_mb(free_bytes)} are "
                f"free, and of the {_mb(self._limit_bytes)} of stage_bytes images have "
                f"{_mb(sum(copy.size_bytes for copy in copies))}"
            )
        for name in names:
            self.path(name).unlink(missing_ok=True)
        return names

    def remove(self, names: Collection[str]) -> tuple[str, ...]:
        """Removes the copies of these images that nothing runs from; to be called with the lock."""
        self._remove_parts()
        open_here = _open_here()
        removed = []
        for name in names:
            path = self.path(name)
            with contextlib.suppress(FileNotFoundError):
                if not _is_open(path, open_here):
                    path.unlink()
                    removed.append(name)
        return tuple(removed)

    @contextlib.contextmanager
    def writing(self, sha256: str) -> Iterator[Writer]:
        """A new copy, to be called with the lock; nothing is left of one that is not finished."""
        part = self._directory / f"{sha256}{_PART}"
        with open(part, "wb", buffering=0, opener=_private) as file:
            writer = Writer(file.fileno())
            try:
                yield writer
                if writer.whole:
                    os.fsync(file.fileno())
                    part.rename(self.path(sha256))
                    _sync(self._directory)
            finally:
                part.unlink(missing_ok=True)

    def _remove_parts(self) -> None:
        """Those of processes that have died: who has the lock has begun none yet."""
        for part in self._directory.glob(f"*{_PART}"):
            part.unlink()

    def _copies(self, using: Collection[str]) -> Iterator[Copy]:
        open_here = _open_here()
        now_s = time.time()
        for path in self._directory.glob(f"*{_IMAGE}"):
            found = path.stat()
            fresh = now_s - found.st_mtime < _FRESH_S
            busy = path.stem in using or fresh or _is_open(path, open_here)
            yield Copy(name=path.stem, size_bytes=found.st_size, used_s=found.st_mtime, busy=busy)


class Writer:
    """Takes an image in pieces."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.whole = False
        """To be set when all of it was taken, and is what it should be."""

    def write(self, piece: bytes | bytearray) -> None:
        """Takes the next piece.

        Raises:
            OSError: The disk does not.
        """
        left = memoryview(piece)
        while left:
            left = left[os.write(self._descriptor, left) :]


def pieces(image: str, *, sha256: str, size_bytes: int) -> Iterator[bytes]:
    """An image from its file, piece by piece.

    Raises:
        ManifestError: It is not the one with which its servable was published; that shows at the end.
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    read_bytes = 0
    with open(image, "rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            read_bytes += len(piece)
            digest.update(piece)
            yield piece
    if digest.hexdigest() != sha256:
        how = "its sha256 is another" if read_bytes == size_bytes else f"{read_bytes} bytes in place of {size_bytes}"
        raise ManifestError(
            f"image {image} is not the one with which the servable was published: {how}; put that one back, or publish "
            "and deploy the servable again"
        )


def _lock(descriptor: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_open(path: Path, open_here: Collection[tuple[int, int] | str]) -> bool:
    found = path.stat()
    return (found.st_dev, found.st_ino) in open_here or str(path.resolve()) in open_here


def _open_here() -> set[tuple[int, int] | str]:
    """The files that processes of this user have open or mounted on this node, by device and inode or by path.

    Apptainer mounts an image by a loop device, which keeps its path, or by a process that has it open.
    """
    found: set[tuple[int, int] | str] = set()
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it is being let go
            found.add(backing.read_text().strip())
    for process in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # another user's, or gone
            for descriptor in process.iterdir():
                with contextlib.suppress(OSError):
                    opened = descriptor.stat()
                    found.add((opened.st_dev, opened.st_ino))
    return found


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
