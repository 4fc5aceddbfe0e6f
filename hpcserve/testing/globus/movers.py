"""What moves the bytes of one file from one collection to another: a plain copy, or GridFTP as facilities run it.

A mover decides nothing: it does not retry, verify or say who may. It writes in place, as GridFTP does, so a file at
the destination says nothing of how complete it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import quote

from hpcserve.errors import HpcserveError

CHUNK_BYTES = 1 << 20
LOOKS_EVERY_S = 0.05

Progress = Callable[[int], None]
"""Called with the bytes that were moved since the last call; what it raises ends the move."""


@dataclass(frozen=True)
class Place:
    """A file below the directory that its collection shows."""

    root: Path
    path: Path


class MoverMissing(HpcserveError):
    """A mover's programs are not here: install what the message names, or move by plain copy."""

    code = "mover_missing"


class Mover(Protocol):
    """Moves one file at a time; called from several threads."""

    def move(self, source: Place, destination: Place, progress: Progress) -> None:
        """Write the source's bytes to the destination, whose directory is there.

        Raises:
            OSError: A file could not be read or written.
        """
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class CopyMover:
    """Copies in pieces; what is a hole in the source is one in the destination, and costs nothing."""

    def move(self, source: Place, destination: Place, progress: Progress) -> None:
        """See :class:`Mover`."""
        with open(source.path, "rb") as read, open(destination.path, "wb") as write:
            size = os.fstat(read.fileno()).st_size
            reached = 0
            for start, end in data_extents(read, size):
                progress(start - reached)
                read.seek(start)
                write.seek(start)
                reached = start
                while reached < end and (piece := read.read(min(CHUNK_BYTES, end - reached))):
                    write.write(piece)
                    reached += len(piece)
                    progress(len(piece))
            write.truncate(size)
            progress(size - reached)

    def close(self) -> None:
        """Nothing was started."""


class GridftpMover:
    """Third-party copies between GridFTP servers on loopback, one server for each collection's directory.

    They are Debian's ``globus-gridftp-server`` and ``globus-url-copy``; no right is needed and no identity is proven.

    Raises:
        MoverMissing: The programs are not installed.
    """

    def __init__(self) -> None:
        self._server, self._client = _program("globus-gridftp-server"), _program("globus-url-copy")
        self._servers: dict[Path, tuple[subprocess.Popen[bytes], int]] = {}
        self._lock = threading.Lock()

    def move(self, source: Place, destination: Place, progress: Progress) -> None:
        """See :class:`Mover`."""
        destination.path.unlink(missing_ok=True)  # Its size is the progress.
        command = [self._client, self._url(source), self._url(destination)]
        with tempfile.TemporaryFile() as said:
            copying = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            try:
                moved = 0
                while (status := _ended(copying)) is None:
                    moved = _report(destination.path, moved, progress)
            finally:
                copying.kill()
                copying.wait()
            if status:
                said.seek(0)
                raise _error(said.read().decode(errors="replace"), source, destination)
        _report(destination.path, moved, progress)

    def close(self) -> None:
        """End the servers."""
        with self._lock:
            for server, _ in self._servers.values():
                server.terminate()
            for server, _ in self._servers.values():
                server.wait()
            self._servers.clear()

    def _url(self, place: Place) -> str:
        with self._lock:
            server, port = self._servers.get(place.root) or (None, 0)
            if server is None or server.poll() is not None:
                self._servers[place.root] = _, port = self._start(place.root)
        return f"ftp://127.0.0.1:{port}{quote(str(place.path))}"

    def _start(self, root: Path) -> tuple[subprocess.Popen[bytes], int]:
        command = [
            *(self._server, "-daemon", "-allow-anonymous", "-port", "0"),
            *("-control-interface", "127.0.0.1", "-data-interface", "127.0.0.1"),
            *("-restrict-paths", f"RW{root}"),
        ]
        if os.geteuid() == 0:
            command += ["-anonymous-user", "root", "-allow-root"]
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
        )
        assert server.stdout is not None
        with server.stdout:
            said = server.stdout.readline().decode()
        try:
            return server, int(said.rpartition(":")[2])
        except ValueError as error:
            server.kill()
            server.wait()
            raise MoverMissing(f"{self._server} does not start: {said.strip() or 'it said nothing'}") from error


def data_extents(file: IO[bytes], size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as (start, end) in bytes; what lies between is a hole. It moves the file's position."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file.fileno(), end, os.SEEK_DATA)
        except OSError:  # ENXIO: no data from here on.
            return
        end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        yield start, end


def contents_digest(path: Path) -> bytes:
    """A digest that is equal where the contents are equal.

    Pieces that are all zero are left out, so that the holes of a sparse file cost nothing. It is no checksum that
    others would compute: for those see :func:`checksum`.
    """
    digest, done = hashlib.sha256(), 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(f"{size}".encode())
        for start, end in data_extents(file, size):
            at = max(done, start - start % CHUNK_BYTES)
            while at < end:
                piece = os.pread(file.fileno(), CHUNK_BYTES, at)
                if piece.count(0) != len(piece):
                    digest.update(f" {at} ".encode())
                    digest.update(piece)
                at += CHUNK_BYTES
            done = max(done, at)
    return digest.digest()


def checksum(path: Path, algorithm: str) -> str:
    """A file's checksum in hexadecimal digits.

    Args:
        path: The file; it is read in pieces.
        algorithm: As Globus names it: ``MD5``, ``SHA256`` …

    Raises:
        ValueError: No such algorithm is known.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm.replace("-", "").lower()).hexdigest()


def _program(name: str) -> str:
    # Servers live in sbin, which is not on every user's path.
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise MoverMissing(
            f"{name} is not here: install globus-gridftp-server-progs and globus-gass-copy-progs, or move by 'copy'"
        )
    return found


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(LOOKS_EVERY_S)
    except subprocess.TimeoutExpired:
        return None


def _report(path: Path, moved: int, progress: Progress) -> int:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return moved
    progress(size - moved)
    return size


def _error(said: str, source: Place, destination: Place) -> OSError:
    """What ``globus-url-copy`` (10.12) says, as the error that it was for the server."""
    for reason, number in _REASONS.items():
        if reason in said:
            at_source = not source.path.exists() or not os.access(source.path, os.R_OK)
            return OSError(number, " ".join(said.split()), str((source if at_source else destination).path))
    return OSError(f"{source.path} to {destination.path}: {' '.join(said.split())}")


_REASONS = {
    os.strerror(number): number
    for number in (2, 13, 20, 21, 28, 30, 122)  # ENOENT EACCES ENOTDIR EISDIR ENOSPC EROFS EDQUOT
} | {"Path not allowed": 13}
