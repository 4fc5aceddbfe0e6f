"""How long a client waits between its tries to connect: longer each time, and no two clients alike.

The first try of all is made again only where the service answers, and says itself that it may go better soon.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from hpcserve.errors import Overloaded, ServiceUnavailable

FIRST_S = 0.05
FORGIVEN_S = 10.0
"""After so long without a failure the next one counts as the first."""


PATIENCE_S = 10.0
"""As long as Globus may not answer a service before whoever has just begun is sent away."""


class Patience:
    """For how long somebody who waits is not told of what may be over in a moment.

    Args:
        seconds: That.
        clock: Monotonic seconds.
    """

    def __init__(self, seconds: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = clock() + seconds

    def pause_s(self, error: ServiceUnavailable | Overloaded) -> float:
        """How long to wait before the next try, by what the service has asked for.

        Raises:
            ServiceUnavailable: It has not, or that would be too late.
            Overloaded: As above.
        """
        if error.retry_after_s is None or self._clock() + error.retry_after_s > self._until:
            raise error
        return error.retry_after_s


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
