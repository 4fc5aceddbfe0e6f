"""How many replicas a deployment should have, from what comes, what waits, and what a request costs.

The work of a moment, in replicas, is

    rate · service_s / 0.8  +  (queued + running) · service_s / horizon

The first term keeps up with what comes: replicas that are busy for more than four fifths of their time let requests
wait. The second works off what is there within the *horizon*: a minute for the replicas for which there is room in
pilots that run; for those that need another pilot as long as that is expected to wait in the queue, since it cannot
help before that. How long a request keeps a replica busy is measured while some wait (:mod:`hpcserve.core.pace`);
before that was possible, what waits gets the room that there is, and Little's law says how many replicas are at work:
rate · time in the system = requests in the system. More replicas than requests are of no use.

A deployment that was asked has ``hot`` replicas at least, and so many as the work needed at any moment of the last
``idle_s``: a load that comes and goes does not make replicas come and go. Nor are there fewer while those that answer
need more than a minute for what waits: a place in the queue of the batch scheduler is not given up, to stand in it
again later. When nobody has asked for ``idle_s`` and nothing is left to do, it has ``least`` again.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from hpcserve.core.spans import counted, span

BUSY = 0.8
"""Replicas are to be at work for so much of their time."""
HORIZON_S = 60.0
"""What waits is to be worked off within so long, where pilots start faster than that."""
SMOOTH_S = 60.0
"""The time constant of the averages of what comes and of what is at work."""
LONGEST_S = 86_400.0
"""A request that is said to keep a replica busy for longer, or for no length of time, was not measured well."""
ALMOST = 0.05
"""For so little of a replica none is added."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Between ``least`` and ``most`` replicas; ``hot`` of them while it is in use, and ``idle_s`` after that."""

    least: int
    most: int
    hot: int
    idle_s: float


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What the broker counted for one deployment.

    Attributes:
        came: Requests that ever came to it, in this epoch of the broker.
        queued: Of them, those that wait.
        running: Those that are at replicas.
        workers: The replicas that answer.
        service_s: So many seconds of one replica a request takes; None while that is not measured.
    """

    came: int
    queued: int
    running: int
    workers: int
    service_s: float | None = None


@dataclass(frozen=True)
class Target:
    """So many replicas, and why, as a clause after "because"."""

    replicas: int
    because: str


class Scaler:
    """The memory of one deployment's scaling."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.target: Target | None = None
        """None until something was counted."""
        self._seen_s = -math.inf
        self._asked_s = -math.inf
        self._came: int | None = None
        self._rate = 0.0
        self._at_work = 0.0
        self._service_s: float | None = None
        self._peaks: deque[tuple[float, int, str]] = deque()

    def observe(self, demand: Demand, *, there: int, room: int, wait_s: float, now: float) -> Target:
        """What follows from what was counted.

        Args:
            demand: The counts of this moment.
            there: So many replicas it has. At the first look they are from an earlier controller, which needed them.
            room: So many it may have in the pilots that run, those included that it has.
            wait_s: How long a pilot that is submitted now is expected to wait in the queue.
            now: Monotonic seconds.
        """
        if self.target is None and there > self.scale.least:
            self._asked_s = now
            self._remember(now, there, "it was in use")
        self._average(demand, now)
        left = demand.queued + demand.running
        if left:
            self._asked_s = now
        if now - self._asked_s >= self.scale.idle_s:
            self._forget()
            idle = "that is its minimum" if self._came == 0 else f"nobody asked for {span(self.scale.idle_s)}"
            self.target = Target(self.bounded(self.scale.least), idle)
            return self.target
        horizon_s = max(HORIZON_S, wait_s)  # in this order: of no number the first one is taken
        need, because = self._need(demand, horizon_s, room)
        if self._peaks and self._falls_behind(demand):
            kept = min(self._peaks[0][1], left)
            need, because = max((need, because), (kept, _waits(demand)))
        self._remember(now, need, because)
        _, need, because = self._peaks[0]
        self.target = self._bounded(need, because)
        return self.target

    def bounded(self, replicas: int) -> int:
        """The number that is nearest and allowed; the maximum where that is less than the minimum."""
        return min(max(replicas, self.scale.least), self.scale.most)

    def forget(self) -> None:
        """Nothing was ever asked or counted, but for what came so far."""
        self.target = None
        self._asked_s = -math.inf
        self._forget()

    def _average(self, demand: Demand, now: float) -> None:
        """Of a broker that counts from 0 again, all that it counts is new."""
        elapsed_s, self._seen_s = now - self._seen_s, now
        if self._came is None:
            self._came = demand.came
        came = demand.came - self._came if demand.came >= self._came else demand.came
        self._came = demand.came
        if came:
            self._asked_s = now
        if demand.service_s is not None and 0.0 <= demand.service_s <= LONGEST_S:
            self._service_s = demand.service_s
        if 0 < elapsed_s < math.inf:
            weight = 1.0 - math.exp(-elapsed_s / SMOOTH_S)
            self._rate += weight * (came / elapsed_s - self._rate)
            self._at_work += weight * (min(demand.running, demand.workers) - self._at_work)

    def _need(self, demand: Demand, horizon_s: float, room: int) -> tuple[int, str]:
        """The replicas that the work of this moment needs, and why."""
        left = demand.queued + demand.running
        most = max(1, left)  # one replica does not help another with its request
        if self._service_s is None:
            at_work = max(1, _whole(self._at_work / BUSY))
            if demand.queued:
                return min(most, max(at_work, room)), _waits(demand)
            return min(most, at_work), "it is in use"
        steady = self._rate * self._service_s / BUSY
        soon, later = (left * self._service_s / within_s for within_s in (HORIZON_S, horizon_s))
        if demand.queued and soon >= steady:
            because = _waits(demand)
        else:
            because = f"{self._rate:.3g} requests come in a second, of {self._service_s:.2g} s each"
        return min(most, max(_whole(steady + later), min(_whole(steady + soon), room))), because

    def _falls_behind(self, demand: Demand) -> bool:
        """Whether those that answer, if any, need longer for what waits than it should take."""
        service_s = 0.0 if self._service_s is None else self._service_s
        return demand.queued > 0 and demand.queued * service_s >= demand.workers * HORIZON_S

    def _remember(self, now: float, need: int, because: str) -> None:
        """Keeps the peaks of the last ``idle_s``, the highest first; of equal ones the later one tells why."""
        while self._peaks and self._peaks[-1][1] <= need:
            self._peaks.pop()
        self._peaks.append((now, need, because))
        while self._peaks[0][0] < now - self.scale.idle_s:
            self._peaks.popleft()

    def _forget(self) -> None:
        self._peaks.clear()
        self._rate = self._at_work = 0.0

    def _bounded(self, need: int, because: str) -> Target:
        floor = max(1, self.scale.hot, self.scale.least)
        if need > self.scale.most:
            return Target(self.scale.most, f"{because}; {need} would be needed, and {self.scale.most} is its maximum")
        if need < min(floor, self.scale.most):
            kept = "it is in use" if floor > self.scale.least else "that is its minimum"
            return Target(min(floor, self.scale.most), kept)
        return Target(need, because)


def _whole(work: float) -> int:
    return math.ceil(work - ALMOST)


def _waits(demand: Demand) -> str:
    return f"{counted(demand.queued, 'request')} {'waits' if demand.queued == 1 else 'wait'}"
