"""When a process that ended is started again, and when to stop trying.

The pause doubles with each end, up to a longest one, and is short again after the process has run well for a
while. A process that ends too often within a window is not started again.
"""

from __future__ import annotations

from collections import deque

import msgspec


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of the policy.

    ``first_s`` and ``longest_s`` bound the pause before a restart; after ``stable_s`` of running it is the
    first again. ``most`` ends within ``window_s`` are too many; None: it is always started again.
    """

    first_s: float = 0.05
    longest_s: float = 10.0
    stable_s: float = 10.0
    most: int | None = 10
    window_s: float = 60.0


DEFAULT = Policy()


class RestartAt(msgspec.Struct, frozen=True):
    """Start the process again at this time."""

    at_s: float


class GiveUp(msgspec.Struct, frozen=True):
    """Do not start it again."""

    reason: str


Verdict = RestartAt | GiveUp


class Restarts:
    """The history of one process."""

    def __init__(self, policy: Policy = DEFAULT) -> None:
        self._policy = policy
        self._started_at = float("-inf")
        self._ends: deque[float] = deque()
        self._pause_s = policy.first_s

    def started(self, now: float) -> None:
        """The process was started."""
        self._started_at = now

    def exited(self, now: float) -> Verdict:
        """The process has ended."""
        policy = self._policy
        if now - self._started_at >= policy.stable_s:
            self._pause_s = policy.first_s
        self._ends.append(now)
        while self._ends[0] <= now - policy.window_s:
            self._ends.popleft()
        if policy.most is not None and len(self._ends) >= policy.most:
            return GiveUp(f"it ended {len(self._ends)} times within {policy.window_s:g} s")
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, policy.longest_s)
        return RestartAt(now + pause_s)
