"""The three standard streams, as the shell gave them: open, full, or not there at all.

Decides what becomes of output that cannot be written. Standard output holds what was asked for, so losing it is an
error, :class:`OutputLost`; standard error only speaks of what the exit code says as well, so losing it changes
nothing. A reader that has gone is neither: it stays a ``BrokenPipeError``.

A stream that is closed leaves its number to the next file or pipe that is opened, which would then be taken for it.
So that number is taken first.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from hpcserve.errors import HpcserveError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Each is opened the wrong way round, so that using it fails as it does on a closed one; but for standard error.
_STAND_INS = {0: os.O_WRONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}


class OutputLost(HpcserveError):
    """Standard output takes no more."""


class _Output(io.FileIO):
    """Standard output, unbuffered."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputLost(f"cannot write to standard output: {error.strerror}; send it elsewhere") from error


class _Complaints(io.FileIO):
    """Standard error, unbuffered."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            # There is nowhere left to say it; the exit code does.
            return memoryview(data).nbytes


def guard() -> None:
    """Takes the standard streams in hand. Call it first of all, once in a process."""
    for descriptor, flags in _STAND_INS.items():
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number, so this one
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 (as long as the process)
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Complaints(2, "w", closefd=False), sys.stderr)


def discard_output() -> None:
    """Sends the rest of standard output nowhere: Python flushes it once more when it ends, and would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _text(raw: io.FileIO, given: TextIO | None) -> TextIO:
    """A text stream like the one that Python made, which made none for a closed one."""
    encoding = "utf-8" if given is None else given.encoding
    errors = "backslashreplace" if given is None else given.errors
    by_line = raw.fileno() == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=by_line)
