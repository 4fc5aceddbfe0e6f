"""The log file of one replica: what it prints, bounded on disk. Decides nothing about who reads it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TAIL_BYTES = 16 * 1024


class CappedLog:
    """Appends to ``path`` and moves it to ``path.1`` in time, so that both hold at most ``limit_bytes``.

    A disk that takes no more bytes never stops the replica: what could not be written is counted, and the
    count is written as soon as there is room again. Nothing touches the disk before the first byte.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path = path
        self._older = path.with_name(path.name + ".1")
        self._half_bytes = max(1, limit_bytes // 2)
        self._file: int | None = None
        self._size_bytes = 0
        self._tail = b""
        self._lost_bytes = 0
        self._lost_why = ""

    def write(self, chunk: bytes) -> None:
        """Adds ``chunk`` to the log."""
        self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
        try:
            if self._lost_bytes:
                self._append(f"\n[{self._lost_bytes} bytes of output lost: {self._lost_why}]\n".encode())
                self._lost_bytes = 0
            self._append(chunk)
        except OSError as error:
            self._lost_bytes += len(chunk)
            self._lost_why = error.strerror or str(error)

    def tail(self, lines: int) -> str:
        """The last ``lines`` lines that were written, on disk or not."""
        text = self._tail.decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """Ends the log."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, chunk: bytes) -> None:
        chunk = chunk[-self._half_bytes :]
        if self._size_bytes + len(chunk) > self._half_bytes:
            self._rotate()
        if self._file is None:
            self._open()
        left = memoryview(chunk)
        while left and self._file is not None:
            written = os.write(self._file, left)
            self._size_bytes += written
            left = left[written:]

    def _rotate(self) -> None:
        self.close()
        self._size_bytes = 0
        # Unlinked first: a rename over a file makes ext4 write the new one out at once, 2 ms each time.
        self._older.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # somebody removed the log
            self._path.rename(self._older)

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size_bytes = os.fstat(self._file).st_size
