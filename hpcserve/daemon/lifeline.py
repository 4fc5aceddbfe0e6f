"""How a process notices that its parent is gone: the pipe that is its standard input ends.

The parent holds the other end and never writes to it again; however the parent ends, the kernel closes it.
"""

from __future__ import annotations

import asyncio
import os


class Lifeline:
    """The pipe to the parent.

    Args:
        descriptor: Its reading end.
    """

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._descriptor

    def gone(self) -> bool:
        """Whether the parent is gone. Call it when the descriptor is readable; it does not block."""
        try:
            while os.read(self._descriptor, 4096):
                pass
        except BlockingIOError:
            return False
        return True

    async def wait(self) -> None:
        """Returns when the parent is gone."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._descriptor, lambda: gone.set() if self.gone() else None)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._descriptor)
