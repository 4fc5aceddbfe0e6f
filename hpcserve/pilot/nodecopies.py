"""The copies of images that one node has, below the site's ``stage_dir``: one directory for each user.

Only who holds the lock of that directory writes there, so a file that is not whole is always one of a process that has
died. Which copies make room for another one is decided in :mod:`hpcserve.core.imagecopies`.

Each pilot that wants an image leaves a mark beside its copy, ``SHA256.PILOT.wanted``. As long as a mark is fresh, no
other pilot removes the copy: a container may be about to start from it, which nobody can see yet. Who looks for a copy
and marks it, and who removes one, hold the lock of that copy's own file, so that one of them sees what the other did.
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
from typing import TypeAlias

from hpcserve.core.imagecopies import Copy, to_remove
from hpcserve.errors import ConfigError, HpcserveError, ManifestError

_IMAGE = ".sif"
_PART = ".part"
_WANTED = ".wanted"
PIECE_BYTES = 8 << 20
FRESH_S = 60.0
"""Of an image that a pilot has wanted so lately, a container may be about to start."""


_Open: TypeAlias = set[tuple[int, int] | str]


class NodeCopies:
    """The user's copies on this node.

    Args:
        stage_dir: What the site says.
        limit_bytes: All copies together may be so large.
        pilot: Whose agent asks, as a part of a file's name.

    Raises:
        ConfigError: There can be no such directory, or it is not this user's alone.
    """

    def __init__(self, stage_dir: Path, limit_bytes: int, pilot: str) -> None:
        self._directory = stage_dir / f"hpcserve-{os.geteuid()}"
        self._limit_bytes = limit_bytes
        self._pilot = pilot
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
        """Whether there is a copy; it counts as wanted now, by this pilot."""
        with self._kept(sha256) as found:
            if found is None or found.st_size != size_bytes:
                return False
            os.utime(self.path(sha256))
            self._mark(sha256)
            return True

    def pieces(self, sha256: str, size_bytes: int) -> Iterator[bytes]:
        """A copy, piece by piece.

        Raises:
            HpcserveError: It was damaged, which shows at the end; it is removed, unless another one is there already.
            OSError: It cannot be read.
        """
        path = self.path(sha256)
        with path.open("rb") as held:  # so that it can be told from one that takes its place
            try:
                yield from pieces(f"/proc/self/fd/{held.fileno()}", sha256=sha256, size_bytes=size_bytes)
            except ManifestError as error:
                self._discard(path, os.fstat(held.fileno()))
                raise HpcserveError(f"the copy {path} was damaged; it is removed") from error

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
        self._remove_left()
        room = os.statvfs(self._directory)
        free_bytes = room.f_bavail * room.f_frsize
        open_here = _open_here()
        copies = list(self._copies(using, open_here))
        names = to_remove(copies, size_bytes=size_bytes, limit_bytes=self._limit_bytes, free_bytes=free_bytes)
        if names is None:
            raise ConfigError(
                f"containers.stage_dir: no room for {_mb(size_bytes)} in {self._directory}: {_mb(free_bytes)} are "
                f"free, and of the {_mb(self._limit_bytes)} of stage_bytes images have "
                f"{_mb(sum(copy.size_bytes for copy in copies))}"
            )
        gone = tuple(name for name in names if self._unlink(name, open_here))
        if gone == names:
            return gone
        return (*gone, *self.make_room(size_bytes, using))  # one of them has come to be wanted: others instead

    def remove(self, names: Collection[str]) -> tuple[str, ...]:
        """Removes the copies of these images that no other pilot has wanted lately, and that nothing runs from.

        To be called with the lock. This pilot wants none of them any more.
        """
        self._remove_left()
        for name in names:
            self._own_mark(name).unlink(missing_ok=True)
        open_here = _open_here()
        return tuple(name for name in names if self._unlink(name, open_here))

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
                    self._mark(sha256)
                    part.rename(self.path(sha256))
                    _sync(self._directory)
            finally:
                part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _kept(self, sha256: str) -> Iterator[os.stat_result | None]:
        """What there is of a copy, which nobody removes or marks meanwhile; none if it is not there."""
        try:
            descriptor = os.open(self.path(sha256), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            yield None
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = os.fstat(descriptor)
            yield found if found.st_nlink else None  # it went while this one waited
        finally:
            os.close(descriptor)

    def _unlink(self, sha256: str, open_here: _Open) -> bool:
        """Removes a copy that is not in use, nor about to be; whether it did."""
        path = self.path(sha256)
        with self._kept(sha256) as found:
            if found is None or self._is_fresh(sha256) or _is_open(path, open_here):
                return False
            path.unlink()
            return True

    def _discard(self, path: Path, damaged: os.stat_result) -> None:
        """Removes a copy that is not what it should be, whoever wants it; not one that has taken its place since."""
        with self.locked(), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), damaged):
                path.unlink()

    def _own_mark(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.{self._pilot}{_WANTED}"

    def _mark(self, sha256: str) -> None:
        self._own_mark(sha256).touch(mode=0o600)

    def _is_fresh(self, sha256: str) -> bool:
        """Whether a pilot has wanted it lately."""
        return any(_is_fresh(mark) for mark in self._directory.glob(f"{sha256}.*{_WANTED}"))

    def _remove_left(self) -> None:
        """Parts of processes that have died, since who has the lock has begun none yet, and marks that say nothing."""
        for part in self._directory.glob(f"*{_PART}"):
            part.unlink()
        for mark in self._directory.glob(f"*{_WANTED}"):
            if not _is_fresh(mark):
                mark.unlink(missing_ok=True)

    def _copies(self, using: Collection[str], open_here: _Open) -> Iterator[Copy]:
        for path in self._directory.glob(f"*{_IMAGE}"):
            found = path.stat()
            busy = path.stem in using or self._is_fresh(path.stem) or _is_open(path, open_here)
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


def _is_fresh(mark: Path) -> bool:
    try:
        return time.time() - mark.stat().st_mtime < FRESH_S
    except FileNotFoundError:  # its pilot has ended
        return False


def _is_open(path: Path, open_here: _Open) -> bool:
    found = path.stat()
    return (found.st_dev, found.st_ino) in open_here or str(path.resolve()) in open_here


def _open_here() -> _Open:
    """The files that processes of this user have open or mounted on this node, by device and inode or by path.

    Apptainer mounts an image by a loop device, which keeps its path, or by a process that has it open.
    """
    found: _Open = set()
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
