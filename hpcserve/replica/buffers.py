"""Memory for large arrays that come and go: what nobody holds a view of any more is used again.

The kernel clears each page that it gives a process for the first time, which takes as long as copying it.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

SMALLEST_BYTES = 1 << 20
MOST = 4

Bytes = npt.NDArray[np.uint8]


class Buffers:
    """Keeps up to :data:`MOST` of them."""

    def __init__(self) -> None:
        self._kept: list[Bytes] = []

    def take(self, size_bytes: int) -> Bytes:
        """Memory of so many bytes, with anything in it. It is free again once no view of it is left.

        Raises:
            MemoryError: There is none.
        """
        if size_bytes < SMALLEST_BYTES:
            return np.empty(size_bytes, np.uint8)
        for index in range(len(self._kept)):
            if sys.getrefcount(self._kept[index]) <= _UNUSED and size_bytes <= self._kept[index].size <= 2 * size_bytes:
                self._kept.append(self._kept.pop(index))
                return self._kept[-1][:size_bytes]
        if len(self._kept) >= MOST:
            del self._kept[0]  # who holds views of it keeps it
        self._kept.append(np.empty(size_bytes, np.uint8))
        return self._kept[-1][:size_bytes]


_PROBE = [object()]
_UNUSED = sys.getrefcount(_PROBE[0])
"""Of what only a list refers to: releases of Python count differently."""
