"""How long the phases of a replica's start take, by its own clock."""

from __future__ import annotations

import time
from collections.abc import Callable


class Laps:
    """Phases that follow one another, the first from now on.

    Args:
        clock: Monotonic seconds.

    Attributes:
        took_s: Seconds by the phase's name, one of :data:`hpcserve.types.PHASES`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s = clock()
        self.took_s: dict[str, float] = {}

    def end(self, phase: str, *, apart: float = 0.0, of: str = "") -> None:
        """A phase ends, of which the part ``apart``, in seconds, was a phase ``of`` its own, before it."""
        now = self._clock()
        took_s, self._last_s = now - self._last_s, now
        if of:
            self.took_s[of] = min(apart, took_s)
            took_s -= self.took_s[of]
        self.took_s[phase] = took_s
