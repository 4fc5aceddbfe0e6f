"""A simulated day of a deployment that is scaled, beside the best pools of a fixed size.

What decides is the project's own: :class:`hpcserve.core.fleet.Fleet`, fed with the counts that a broker would send.
What is simulated is the load (a day's rhythm, with bursts), the batch scheduler (waits with a heavy tail) and the
replicas, which take one request after the other. A pool of a fixed size is there from the first second to the last,
without ever waiting in a queue, so it has the better of it.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.core.fleetview import CancelPilot, Policy, RetireReplica, StartReplica, StopReplica, SubmitPilot
from hpcserve.core.rollout import Version
from hpcserve.core.scaling import Demand, Scale
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.failures import NEVER_READY, Failures, PilotFailures
from hpcserve.types import DeploymentName, PilotId, ReplicaId

DAY_S = 86_400.0
LOOK_S = 5.0
SLOTS = 4
MOST_PILOTS = 16
WALLTIME_S = 4 * 3600.0
SETUP_S = 10.0
SERVICE_S = 4.0
QUIET_PER_S, BUSY_PER_S, BURST_PER_S = 0.05, 1.5, 6.0
BURSTS = 8
WAIT_MEDIAN_S, WAIT_SIGMA = 90.0, 1.2
LONGER_MEDIANS_S = (600.0, 1800.0)
NAME, VERSION = DeploymentName("d"), Version("v")


@dataclass
class Server:
    """A replica: set up at ``ready_s``, free again at ``free_s``; it takes nothing new once it is ``leaving``."""

    ready_s: float
    free_s: float
    leaving: bool = False


@dataclass
class Line:
    """The queue of the deployment. Times are seconds since midnight."""

    arrivals: deque[float]
    chance: random.Random
    queue: deque[float] = field(default_factory=deque)
    came: int = 0
    waited_s: float = 0.0
    begun: int = 0
    work_s: float = 0.0

    def serve(self, servers: list[Server], until_s: float) -> None:
        """Gives out what waits, first come, first served, to whoever is free first."""
        while self.arrivals and self.arrivals[0] < until_s:
            self.queue.append(self.arrivals.popleft())
            self.came += 1
        takers = [server for server in servers if not server.leaving]
        while self.queue and takers:
            server = min(takers, key=lambda each: each.free_s)
            start_s = max(server.free_s, self.queue[0])
            if start_s >= until_s:
                return
            self.waited_s += start_s - self.queue.popleft()
            self.begun += 1
            service_s = self.chance.expovariate(1 / SERVICE_S)
            self.work_s += service_s
            server.free_s = start_s + service_s

    @property
    def mean_wait_s(self) -> float:
        """Of all that came; what still waits at midnight counts with what it has waited."""
        left_s = sum(DAY_S - each for each in self.queue)
        return (self.waited_s + left_s) / max(1, self.came)


def arrivals(seed: int) -> list[float]:
    """The times of a day's requests: a night, a noon, and bursts at any time, of five to thirty minutes."""
    chance = random.Random(f"load {seed}")
    bursts = [(chance.uniform(0, DAY_S), chance.uniform(300, 1800)) for _ in range(BURSTS)]
    found, now = [], 0.0
    while (now := now + chance.expovariate(BURST_PER_S)) < DAY_S:
        rhythm = (1 - math.cos(2 * math.pi * now / DAY_S)) / 2
        per_s = QUIET_PER_S + (BUSY_PER_S - QUIET_PER_S) * rhythm
        if any(begin <= now < begin + length for begin, length in bursts):
            per_s = BURST_PER_S
        if chance.random() < per_s / BURST_PER_S:
            found.append(now)
    return found


@dataclass(kw_only=True)
class Day:
    """What came of one day: ``series`` has the time, what waits and the nodes, look by look."""

    wait_s: float
    node_hours: float
    errors_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    pilots: int = 0
    series: list[tuple[float, int, int]] = field(default_factory=list)


def fixed(seed: int, nodes: int) -> Day:
    """A pool of so many nodes."""
    line = Line(deque(arrivals(seed)), random.Random(f"work {seed}"))
    servers = [Server(0.0, 0.0) for _ in range(nodes * SLOTS)]
    line.serve(servers, DAY_S)
    return Day(wait_s=line.mean_wait_s, node_hours=nodes * DAY_S / 3600)


def scaled(seed: int, wait_median_s: float = WAIT_MEDIAN_S) -> Day:
    """Pilots of a node each, as the fleet decides, which wait so long in the queue on average."""
    return _Scaled(seed, wait_median_s).run()


class _Scaled:
    """One day: the fleet, and everything around it."""

    def __init__(self, seed: int, wait_median_s: float) -> None:
        self._wait_median_s = wait_median_s
        self._chance = random.Random(f"queue {seed}")
        self._line = Line(deque(arrivals(seed)), random.Random(f"work {seed}"))
        self._succession = Succession(walltime_s=WALLTIME_S, margin_s=13.0, first_wait_s=600.0)
        self._fleet = Fleet(
            policy=Policy(max_pilots=MOST_PILOTS, slots=SLOTS, idle_s=300.0),
            seed="s",
            restarts=lambda: Failures(NEVER_READY),
            pilot_restarts=PilotFailures(),
            succession=self._succession,
        )
        self._fleet.want(NAME, VERSION, 0, Scale(least=0, most=MOST_PILOTS * SLOTS, hot=0, idle_s=300.0))
        self._begins: dict[PilotId, float] = {}
        self._began: dict[PilotId, float] = {}
        self._home: dict[ReplicaId, PilotId] = {}
        self._servers: dict[ReplicaId, Server] = {}
        self._day = Day(wait_s=0.0, node_hours=0.0)

    def run(self) -> Day:
        for look in range(int(DAY_S / LOOK_S)):
            now = look * LOOK_S
            self._line.serve(list(self._servers.values()), now + LOOK_S)
            self._look(now + LOOK_S)
        for pilot in list(self._began):
            self._end(pilot, DAY_S)
        self._day.wait_s = self._line.mean_wait_s
        return self._day

    def _look(self, now: float) -> None:
        """Everybody says what there is, and the fleet decides."""
        for pilot, begins_s in list(self._begins.items()):
            if begins_s <= now:
                del self._begins[pilot]
                self._began[pilot] = begins_s
                self._fleet.job_seen(pilot, "running")
        for pilot, began_s in list(self._began.items()):
            if began_s + WALLTIME_S <= now:
                self._end(pilot, now)
                self._fleet.job_ended(pilot, "its walltime is used up", "", now, kind="walltime")
                continue
            self._fleet.reported(pilot, self._said(pilot, now), ends_s=began_s + WALLTIME_S, leaving=False, now=now)
        ready = [server for server in self._servers.values() if server.ready_s <= now]
        running = sum(server.free_s > now for server in ready)
        service_s = self._line.work_s / self._line.begun if self._line.begun else None
        demand = Demand(
            came=self._line.came,
            queued=len(self._line.queue),
            running=running,
            workers=len(ready),
            service_s=service_s,
        )
        self._fleet.demand({NAME: demand}, now)
        for action in self._fleet.step(now):
            self._do(action, now)
        self._day.series.append((now, len(self._line.queue), len(self._began)))

    def _said(self, pilot: PilotId, now: float) -> tuple[ReplicaSaid, ...]:
        said = []
        for replica, server in list(self._servers.items()):
            if self._home[replica] != pilot:
                continue
            if server.leaving and server.free_s <= now:
                self._fleet.idle(replica)
            said.append(ReplicaSaid(replica, "ready" if server.ready_s <= now else "starting"))
        return tuple(said)

    def _do(self, action: object, now: float) -> None:
        if isinstance(action, SubmitPilot):
            wait_s = self._chance.lognormvariate(math.log(self._wait_median_s), WAIT_SIGMA)
            self._day.waits_s.append(wait_s)
            self._day.errors_s.append(abs(wait_s - self._succession.expected_wait_s))
            self._begins[action.pilot] = now + wait_s
            self._day.pilots += 1
        elif isinstance(action, StartReplica):
            self._home[action.replica] = action.pilot
            self._servers[action.replica] = Server(now + SETUP_S, now + SETUP_S)
        elif isinstance(action, RetireReplica):
            self._servers[action.replica].leaving = True
        elif isinstance(action, StopReplica):
            self._servers.pop(action.replica, None)
        elif isinstance(action, CancelPilot):
            self._begins.pop(action.pilot, None)
            self._end(action.pilot, now)
            self._fleet.job_ended(action.pilot, "it was not needed any more", "", now, kind="cancelled")

    def _end(self, pilot: PilotId, now: float) -> None:
        began_s = self._began.pop(pilot, None)
        if began_s is not None:
            self._day.node_hours += (now - began_s) / 3600
        for replica in [replica for replica, home in self._home.items() if home == pilot]:
            self._servers.pop(replica, None)


def measure(seeds: int = 20, longer_s: Sequence[float] = LONGER_MEDIANS_S) -> dict[str, Any]:
    """The two ratios over so many days, how well starts were predicted, and what longer median waits make of it."""
    waits, hours, errors, queue_waits, days = [], [], [], [], []
    for seed in range(seeds):
        day = scaled(seed)
        days.append(day)
        errors += day.errors_s
        queue_waits += day.waits_s
        alike = math.ceil(day.node_hours / 24)
        waits.append(day.wait_s / fixed(seed, alike).wait_s)
        nodes = next(count for count in range(alike, 10 * MOST_PILOTS) if fixed(seed, count).wait_s <= day.wait_s)
        hours.append(day.node_hours / (nodes * 24))
    return {
        "days": seeds,
        "wait_ratio_at_equal_node_hours": _three(waits),
        "node_hours_ratio_at_equal_wait": _three(hours),
        "mean_wait_s": round(mean(day.wait_s for day in days), 2),
        "node_hours": round(mean(day.node_hours for day in days), 1),
        "pilots": round(mean(day.pilots for day in days), 1),
        "predicted_start_median_error_s": round(median(errors), 1),
        "queue_wait_median_s": round(median(queue_waits), 1),
        "where_the_queue_is_longer": {f"{each:g}": _longer(seeds, each) for each in longer_s},
        "one_day": _drawn(days[0]),
    }


def _longer(seeds: int, wait_median_s: float) -> dict[str, Any]:
    """The same days at a machine whose pilots wait longer: nothing is promised for it."""
    days = [scaled(seed, wait_median_s) for seed in range(seeds)]
    ratios = [day.wait_s / fixed(seed, math.ceil(day.node_hours / 24)).wait_s for seed, day in enumerate(days)]
    return {
        "wait_ratio_at_equal_node_hours": _three(ratios),
        "mean_wait_s": round(mean(day.wait_s for day in days), 1),
        "node_hours": round(mean(day.node_hours for day in days), 1),
    }


def _drawn(day: Day) -> dict[str, list[float]]:
    """What waits at most, and the nodes on average, in each five minutes of a day."""
    looks = round(300 / LOOK_S)
    parts = [day.series[begin : begin + looks] for begin in range(0, len(day.series), looks)]
    return {
        "from_h": [round((part[0][0] - LOOK_S) / 3600, 3) for part in parts],
        "queued": [max(queued for _, queued, _ in part) for part in parts],
        "nodes": [round(mean(nodes for _, _, nodes in part), 2) for part in parts],
        "came_per_s": [round(each, 3) for each in _rates(len(parts))],
    }


def _rates(parts: int) -> list[float]:
    counts = [0] * parts
    for arrival_s in arrivals(0):
        counts[int(arrival_s // 300)] += 1
    return [count / 300 for count in counts]


def _three(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 3), "best": round(min(values), 3), "worst": round(max(values), 3)}
