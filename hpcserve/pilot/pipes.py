"""The pipes between an agent and the processes that it starts."""

from __future__ import annotations

import os
from contextlib import ExitStack

CHUNK_BYTES = 64 * 1024
"""What is read of a pipe in one turn at most."""


def pipe(reads: ExitStack, writes: ExitStack) -> tuple[int, int]:
    """A pipe whose two ends, the one to read from and the one to write to, are closed by the two stacks."""
    read_end, write_end = os.pipe()
    reads.callback(os.close, read_end)
    writes.callback(os.close, write_end)
    return read_end, write_end


def read(descriptor: int) -> bytes | None:
    """A piece of what is there: nothing at the end of file, None when there is nothing now."""
    try:
        return os.read(descriptor, CHUNK_BYTES)
    except BlockingIOError:
        return None
