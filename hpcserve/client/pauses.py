"""How long a client waits between its tries to connect: longer each time, and no two clients alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

FIRST_S = 0.05
FORGIVEN_S = 10.0
"""After so long without a failure the next one counts as the first."""


class Pauses:
    """The pauses of one client.

    Args:
        longest_s: None is longer, in seconds.
        clock: Monotonic seconds.
    """

    def __init__(self, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = longest_s
        self._clock = clock
        self._next_s = FIRST_S
        self._over = clock()

    def after_failure_s(self) -> float:
        """How long to wait now: half of a length that doubles each time, and a part of the other half by chance."""
        now = self._clock()
        if now - self._over >= FORGIVEN_S:
            self._next_s = FIRST_S
        pause_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, self._longest_s)
        self._over = now + pause_s
        return pause_s
