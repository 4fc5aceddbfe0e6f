"""How fast the requests of one deployment are served, as measured while some of them wait.

Only a queue tells what replicas can do: without one they answer as many requests as come. So time is measured in
*windows*: from one look to a later one, with a queue at every look between, and with answers, since those of a batch
come all at once. A window counts the answers, and the seconds of all replicas that could take work: what one replica
does in a second outlives a change of their number.

The rate is that of the last ``WINDOWS`` windows together without the slowest and the fastest quarter of them, so that
neither a pause of the machine nor an odd batch moves it. What nothing has confirmed for ``FRESH_S`` is forgotten, and
the rate is unknown again; it is unknown, too, while no replica is there.

Decides nothing: :class:`hpcserve.core.lanes.Lane` draws the conclusions.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 0.5
WINDOWS = 8
FRESH_S = 60.0
FRESH_WINDOWS = 4
"""A rate that took long to measure stays for so many of its windows."""

Window = tuple[int, float]
"""Answers, and seconds of a replica."""


class Pace:
    """The rate of one deployment. ``per_s``: requests a second, None while it is not known."""

    __slots__ = ("_answered", "_fresh_until", "_one_per_s", "_since", "_windows", "_workers", "per_s")

    def __init__(self) -> None:
        self.per_s: float | None = None
        self._one_per_s: float | None = None
        self._windows: deque[Window] = deque(maxlen=WINDOWS)
        self._since: float | None = None
        self._answered = 0
        self._workers = 0
        self._fresh_until = 0.0

    @property
    def service_s(self) -> float | None:
        """So many seconds of one replica a request takes; None while that is not known."""
        return None if not self._one_per_s else 1.0 / self._one_per_s

    def look(self, now: float, *, waits: bool, answered: int, workers: int) -> None:
        """To be called about every tenth of a second while requests wait.

        Args:
            now: Monotonic seconds.
            waits: Whether a request waits.
            answered: How many were answered, ever.
            workers: How many replicas can take work.
        """
        if self._since is None or not waits or workers != self._workers:
            self._since = now if waits and workers else None
            self._answered, self._workers = answered, workers
        elif now - self._since >= WINDOW_S and answered > self._answered:
            self._close(now, answered, now - self._since)
        if self._one_per_s is not None and now >= self._fresh_until:
            self._windows.clear()
            self._one_per_s = None
        self.per_s = None if self._one_per_s is None or not workers else self._one_per_s * workers

    def _close(self, now: float, answered: int, length_s: float) -> None:
        self._windows.append((answered - self._answered, length_s * self._workers))
        self._since, self._answered = now, answered
        self._fresh_until = now + max(FRESH_S, FRESH_WINDOWS * length_s)
        self._one_per_s = _rate(self._windows)


def _rate(windows: deque[Window]) -> float:
    """Answers of one replica in a second."""
    kept = sorted(windows, key=lambda window: window[0] / window[1])
    odd = len(kept) // 4
    kept = kept[odd : len(kept) - odd]
    return sum(answers for answers, _ in kept) / sum(seconds for _, seconds in kept)
