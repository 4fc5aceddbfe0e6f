"""Reads the service record while a connection is silent, to find out whether another daemon has taken over.

In a thread of its own: the file system that holds the record, or the tunnel through which it is read, may stand still
as well. When to read it, and what follows, is decided in :mod:`hpcserve.core.silence`.
"""

from __future__ import annotations

import threading
import time

from hpcserve.client.ways import Way
from hpcserve.core.silence import Silence, is_succeeded
from hpcserve.errors import HpcserveError
from hpcserve.types import Epoch


class Successor:
    """What is known of another daemon in the place of the one at the other end of a connection.

    Args:
        way: How to get to the service.
        epoch: That of the broker that the connection leads to.
    """

    def __init__(self, way: Way, epoch: Epoch) -> None:
        self._way = way
        self._epoch = epoch
        self._silence = Silence(time.monotonic())
        self._reading: threading.Thread | None = None
        self._is_there = False

    def is_there(self, heard: int, *, waits: bool) -> bool:
        """Whether another daemon has taken over, as far as is known now. Never waits.

        Args:
            heard: How many messages have come so far.
            waits: Whether something is waited for.
        """
        is_due = self._silence.look(heard, time.monotonic(), waits=waits)
        if is_due and (self._reading is None or not self._reading.is_alive()):
            self._reading = threading.Thread(target=self._read, name="hpcserve-record", daemon=True)
            self._reading.start()
        return self._is_there

    def _read(self) -> None:
        try:
            published = self._way.published()
        except HpcserveError:  # whether there is a successor cannot be told now; the next look may
            return
        self._is_there = is_succeeded(self._epoch, published)
