"""When the replica looks at its devices: on the loop's own turns, for there is no other thread."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from hpcserve.wire.messages import DeviceUse

READ_EVERY_S = 10.0
COST = 0.01
"""At most this part of the time goes into reading: where that takes long, it is done more seldom."""
FRESH_S = 30.0
"""How long another rank's word of how busy its devices are is told on: one that is not called tells nothing."""


class Devices(Protocol):
    """What can be read. ``len`` is how many there are."""

    def __len__(self) -> int: ...

    def read(self) -> tuple[DeviceUse, ...]:
        """What each is used for now."""
        ...


class OfAllRanks:
    """The devices of rank 0, and those that the others have told of. One that several see is there once.

    Args:
        own: Those of rank 0.
        told: Those of the others, by rank, as of the latest answers that told of them.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        own: Devices | None,
        told: Mapping[int, tuple[DeviceUse, ...]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._told = told
        self._clock = clock
        self._seen: dict[int, tuple[tuple[DeviceUse, ...], float]] = {}

    def __len__(self) -> int:
        return (len(self._own) if self._own else 0) + sum(map(len, self._told.values()))

    def read(self) -> tuple[DeviceUse, ...]:
        """What each is used for, as far as rank 0 knows."""
        found = self._own.read() if self._own else ()
        uses = {use.id: use for use in found}
        for rank, told in sorted(self._told.items()):
            for use in told if self._is_fresh(rank, told) else map(_not_known_how_busy, told):
                uses.setdefault(use.id, use)
        return tuple(uses.values())

    def _is_fresh(self, rank: int, told: tuple[DeviceUse, ...]) -> bool:
        """Whether a rank has told this lately: each answer that tells brings another object."""
        now = self._clock()
        if rank not in self._seen or self._seen[rank][0] is not told:
            self._seen[rank] = told, now
        return now < self._seen[rank][1] + FRESH_S


def _not_known_how_busy(use: DeviceUse) -> DeviceUse:
    return msgspec.structs.replace(use, busy_percent=None)


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

    def is_due(self) -> bool:
        """Whether to call :meth:`read`, now."""
        return self._clock() >= self.due_at

    def read(self) -> tuple[DeviceUse, ...]:
        """What each is used for now."""
        if not self._devices:
            return ()
        began = self._clock()
        read = self._devices.read()
        now = self._clock()
        self.due_at = now + max(READ_EVERY_S, (now - began) / COST)
        return read
