"""What moves the bytes of one file from one collection to another; here the seam, and a plain copy.

A mover decides nothing: it does not retry, verify or say who may. It writes in place, as GridFTP does, so a file at
the destination says nothing of how complete it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hpcserve.testing.globus.contents import CHUNK_BYTES, data_extents

Progress = Callable[[int], None]
"""Called with the bytes that were moved since the last call; what it raises ends the move."""


@dataclass(frozen=True)
class Place:
    """A file below the directory that its collection shows."""

    root: Path
    path: Path


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
