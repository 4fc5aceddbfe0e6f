"""How much unfinished work a replica wants to hold: enough never to wait for the broker, and no more.

What lies at a replica cannot be given to another one, so the total is small: as many requests as fill
``HORIZON_S``, the time in which the broker surely has sent more, and never fewer than two (one that runs,
one that waits). The time of one request is an exponentially weighted mean, so that one slow call does not
starve the replica for long.
"""

from __future__ import annotations

HORIZON_S = 0.02
FEWEST, MOST = 2, 256
WEIGHT = 0.1
INBOX_BYTES = 64 << 20


class Credit:
    """The credit of one replica."""

    def __init__(self) -> None:
        self._mean_s = HORIZON_S / 16

    def ran(self, run_s: float) -> None:
        """A request took ``run_s`` seconds."""
        self._mean_s += WEIGHT * (run_s - self._mean_s)

    def requests(self) -> int:
        """The number of unfinished requests that the replica wants to hold in all."""
        mean_s = self._mean_s
        if mean_s * MOST <= HORIZON_S:
            return MOST
        return max(FEWEST, int(HORIZON_S / mean_s))
