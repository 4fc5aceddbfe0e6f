"""The bytes of input files and of standard input: never more than one request may have.

A pipe may have no end, and a file may be larger than this machine's memory. So the size is looked at before anything
is read, where a file or the header of a ``.npy`` tells it, and else counted.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import tokenize
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from hpcserve.errors import ConfigError, InvalidInput

NPY, NPZ = b"\x93NUMPY", b"PK\x03\x04"
FORMAT_BYTES = 64 << 10
"""So much a format may add to the tensors' own bytes; the client counts exactly those."""
HEADER_BYTES = 16 << 10
"""More than numpy reads of a header that it does not trust."""
CHUNK_BYTES = 1 << 20
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Reader:
    """Reads the inputs of one request.

    Args:
        most_bytes: The largest request that the service takes.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._before = 0

    def content(self, file: str) -> bytes:
        """The whole content of ``file``; ``-`` is standard input.

        Raises:
            ConfigError: It cannot be read, or ends too early.
            InvalidInput: It is too large for a request, or together with what was read before.
        """
        source = named(file)
        try:
            with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as stream:
                content = self._bounded(stream, source)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from error
        self._before += len(content)
        return content

    def check(self, source: str, size_bytes: int, *, binary: bool) -> None:
        """Refuses what does not fit with what was read before.

        Raises:
            InvalidInput: It does not.
        """
        total = self._before + size_bytes
        if total > self._most_bytes + FORMAT_BYTES:
            raise InvalidInput(
                f"with {source} the inputs have {total} bytes or more: a request to this service has at most "
                f"{self._most_bytes}; send them in parts" + ("" if binary else ", or as .npy if this is JSON")
            )

    def _bounded(self, stream: BinaryIO, source: str) -> bytes:
        size = _size(stream)
        start = stream.read(HEADER_BYTES)
        if start.startswith(NPY):
            declared = _declared(start)
            self.check(source, declared, binary=True)
            if size is not None and size < declared:
                raise ConfigError(f"cannot read {source}: it has {size} bytes, and its header says {declared}")
        binary = start.startswith((NPY, NPZ))
        if size is not None:
            self.check(source, size, binary=binary)
        buffer = io.BytesIO()
        chunk = start
        while chunk:
            buffer.write(chunk)
            self.check(source, buffer.tell(), binary=binary)
            chunk = stream.read(CHUNK_BYTES)
        return buffer.getvalue()


def named(file: str) -> str:
    """What to call a file in a message."""
    return "standard input" if file == "-" else file


def _size(stream: BinaryIO) -> int | None:
    """How much is left to read, where a file says that."""
    try:
        found = os.fstat(stream.fileno())
    except io.UnsupportedOperation:
        return None
    # Files of /proc say 0, whatever they hold.
    return found.st_size - stream.tell() if stat.S_ISREG(found.st_mode) and found.st_size else None


def _declared(start: bytes) -> int:
    """The size of a ``.npy`` file by its header.

    Raises:
        ValueError: The header is broken.
    """
    file = io.BytesIO(start)
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its format is {version[0]}.{version[1]}: save an array of plain numbers or text")
    try:
        shape, _, dtype = _HEADERS[version](file)
    except (tokenize.TokenError, TypeError) as error:  # numpy 2.4 lets them through
        raise ValueError(f"its header is broken: {error.args[0]}") from error
    count = 1
    for length in shape:
        count *= length
    return file.tell() + count * np.dtype(dtype).itemsize
