"""Moves bytes by GridFTP, as facilities do: with the servers and the client that Debian has."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import quote

from hpcserve.errors import HpcserveError
from hpcserve.testing.globus.movers import Place, Progress

LOOKS_EVERY_S = 0.05
SBIN = "/usr/sbin:/sbin"
"""Servers live there, which is not on every user's path."""


class MoverMissing(HpcserveError):
    """A mover's programs are not here: install what the message names, or move by plain copy."""

    code = "mover_missing"


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
        for place in (source, destination):
            if not str(place.path).isascii():  # The server (13.24) leaves such bytes out of names.
                raise OSError(errno.EILSEQ, "this GridFTP knows no names outside of ASCII", str(place.path))
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


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")
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
