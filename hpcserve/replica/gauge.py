"""When the replica looks at its devices: on the loop's own turns, for there is no other thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from hpcserve.wire.messages import DeviceUse

READ_EVERY_S = 10.0
COST = 0.01
"""At most this part of the time goes into reading: where that takes long, it is done more seldom."""


class Devices(Protocol):
    """What can be read. ``len`` is how many there are."""

    def __len__(self) -> int: ...

    def read(self) -> tuple[DeviceUse, ...]:
        """What each is used for now."""
        ...


class Gauge:
    """Reads devices now and then.

    Args:
        devices: Those of this replica; None or empty: nothing is ever due.
        clock: Monotonic seconds.
    """

    def __init__(self, devices: Devices | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._devices = devices
        self._clock = clock
        self.due_at = math.inf
        """When to call :meth:`read`."""
        if devices:
            self.due_at = clock()

    def read(self) -> tuple[DeviceUse, ...]:
        """What each is used for now."""
        if not self._devices:
            return ()
        began = self._clock()
        read = self._devices.read()
        now = self._clock()
        self.due_at = now + max(READ_EVERY_S, (now - began) / COST)
        return read
