"""What is in a file: where its data are, and digests of them. Files are read in pieces; holes are not read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

CHUNK_BYTES = 1 << 20
_ZEROS = bytes(CHUNK_BYTES)


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
                if piece != _ZEROS[: len(piece)]:
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
