"""How often somebody may ask: token buckets, one for all or one for each asker.

A bucket holds ``burst`` tokens and gets ``rate`` new ones a second; asking takes one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class Bucket:
    """One bucket, full at first.

    Args:
        rate: New tokens per second.
        burst: The most that it holds.
        now: The time at which it is full.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now

    def take(self, now: float) -> float:
        """Takes a token.

        Returns:
            0 when there was one; else the seconds until there will be, and nothing is taken.
        """
        self._level = self.level(now)
        self._at = max(now, self._at)
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self._rate

    def level(self, now: float) -> float:
        """How many tokens it holds."""
        return min(self._burst, self._level + max(0.0, now - self._at) * self._rate)


class Buckets:
    """A bucket for each asker. Remembers ``most`` askers; the one longest silent is forgotten first."""

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, asker: Hashable, now: float) -> float:
        """As :meth:`Bucket.take`, from the asker's own bucket."""
        bucket = self._buckets.get(asker)
        if bucket is None:
            bucket = self._buckets[asker] = Bucket(self._rate, self._burst, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(asker)
        return bucket.take(now)
