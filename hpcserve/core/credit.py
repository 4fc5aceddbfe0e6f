"""How much unfinished work a replica wants to hold: enough never to wait for the broker, and no more.

What lies at a replica cannot be given to another one, so the total is small: as many requests as fill
``HORIZON_S``, the time in which the broker surely has sent more, and never fewer than two (one that runs,
one that waits). The time of one request is an exponentially weighted mean, so that one slow call does not
starve the replica for long. Where requests are computed together there are enough for two batches: one that runs,
and one that is complete when it ends; for three where a second one is launched while the first runs.
"""

from __future__ import annotations

HORIZON_S = 0.02
FEWEST, MOST = 2, 256
FIRST = 4
"""So many before a request was run. Should each take minutes, the last of them waits that much longer, and with it the
drain of every pilot of its deployment, which goes by the longest time from giving to answer."""
MOST_OF_BATCHES = 4096
WEIGHT = 0.1
INBOX_BYTES = 64 << 20


class Credit:
    """The credit of one replica."""

    def __init__(self) -> None:
        self._mean_s = HORIZON_S / FIRST
        self._mean_samples = 1.0
        self._batches = 0

    def ran(self, run_s: float) -> None:
        """A request took ``run_s`` seconds, alone."""
        self._mean_s += WEIGHT * (run_s - self._mean_s)
        self._batches = int((1 - WEIGHT) * self._batches)

    def ran_together(self, requests: int, samples: int, run_s: float, limit: int, *, batches: int = 2) -> None:
        """A batch took ``run_s`` seconds; the next ``batches`` of its kind may have ``limit`` samples each."""
        self._mean_s += WEIGHT * (run_s / requests - self._mean_s)
        self._mean_samples += WEIGHT * (samples / requests - self._mean_samples)
        self._batches = min(MOST_OF_BATCHES, int(batches * limit / max(1.0, self._mean_samples)) + 1)

    def requests(self) -> int:
        """The number of unfinished requests that the replica wants to hold in all."""
        mean_s, of_batches = self._mean_s, self._batches
        by_time = MOST if mean_s * MOST <= HORIZON_S else max(FEWEST, int(HORIZON_S / mean_s))
        return max(of_batches, by_time)
