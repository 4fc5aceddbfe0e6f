"""Which replicas and pilot jobs there should be, given what there is. One pure function.

It compares what is wanted with what is, and returns the difference as actions. Carried out and asked again,
it returns nothing: there is no memory here, so a controller that was restarted decides as the old one did.

The rules:

* a replica counts for its deployment while it is of the wanted version and its pilot is *open*: it runs, its agent
  is there, and its end is not near. Every other replica is *old*;
* an old one is let go only when enough others are ready to do its work; where there is no room for its
  replacement and none is coming, it makes room first;
* an old one that has other methods than callers see, and so rests, is let go at once;
* a ready replica is let go in two steps: it gets no new work, and is stopped once it holds none;
* a deployment's replicas are spread over the pilots; no pilot holds more than its slots. What is free goes to the
  deployment with the fewest replicas; of those with none, to the one that has waited longest;
* a pilot whose end is near is *closing*: it gets no new replicas, and those that it has are replaced elsewhere, by a
  successor if need be. In its last ``drain_s`` its replicas get no new work, whether there are others or not;
* a pilot is submitted only for replicas that no pilot, running or queued, has room for, and none while the scheduler
  does not say what became of another. There are never more than ``max_pilots``, not counting those that are being
  replaced, because they are closing or away, and never more than twice as many with them;
* where one that was away and is back makes more than ``max_pilots``, those with the fewest replicas hand these over, as
  far as there is room elsewhere, and end; so does a small one that the demand has outgrown, once a full one is there
  (:mod:`hpcserve.core.places`);
* a pilot that has nothing to run ends after ``idle_s``, at once if it is closing; one whose agent stays away for
  ``orphan_s`` is ended too.

Failures are counted in :mod:`hpcserve.core.blame`, pilots that end at once in :mod:`hpcserve.core.pilotlife`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from hpcserve.core.places import Places
from hpcserve.types import DeploymentName, PilotId, ReplicaId

PilotPhase = Literal["queued", "running", "suspended", "unknown", "leaving"]
"""``leaving``: it was told to end, or says that it does; it holds its nodes until the scheduler says so."""

ReplicaState = Literal["starting", "ready", "retiring", "retired", "stopping"]
"""``retiring``: it gets no new work; ``retired``: and holds none; ``stopping``: its process is being ended."""
ENDING = ("retiring", "retired", "stopping")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The site's limits. ``slots``: of a new pilot, all its nodes together.

    ``max_queued`` pilots may wait in the queue at once, and ``max_running`` may run; None: as many as there may be.
    """

    max_pilots: int
    slots: int
    idle_s: float
    nodes: int = 1
    orphan_s: float = 600.0
    max_queued: int | None = None
    max_running: int | None = None

    @property
    def most_pilots(self) -> int:
        """How many pilots may last at a time: what cannot run is not submitted either."""
        return self.max_pilots if self.max_running is None else min(self.max_pilots, self.max_running)

    @property
    def may_grow(self) -> bool:
        """Whether a full pilot can begin while the small one still runs in whose place it comes."""
        return self.max_running is None or self.max_running > self.max_pilots


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A deployment that is to be served. No replica of it is started before ``not_before_s``, or if it failed.

    ``waits_since_s``: since when it has none; infinite where it has some.
    """

    name: DeploymentName
    version: str
    replicas: int
    not_before_s: float = 0.0
    failed: bool = False
    waits_since_s: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """A pilot job that has not ended.

    ``reported``: its agent has been there. ``away_since_s``: since when it is not any more. ``idle_since_s``: it last
    had a replica. ``lead_s`` before it ends it is closing, ``drain_s`` before that its replicas get no more work.
    ``size``: its slots were all its nodes there.
    """

    pilot: PilotId
    phase: PilotPhase
    slots: int
    size: int
    reported: bool
    idle_since_s: float
    ends_s: float | None = None
    away_since_s: float | None = None
    lead_s: float = 0.0
    drain_s: float = 0.0

    def is_closing(self, now: float) -> bool:
        """Whether its end is so near that others take over."""
        return self.ends_s is not None and self.ends_s - now <= max(self.lead_s, self.drain_s)

    def is_draining(self, now: float) -> bool:
        """Whether its end is so near that nothing new is begun."""
        return self.ends_s is not None and self.ends_s - now <= self.drain_s

    def is_replaced(self, now: float) -> bool:
        """Whether another may be submitted in its place while it still lives."""
        return self.away_since_s is not None or self.is_closing(now)


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A replica whose process may exist. ``resting``: it gets no new work in any case."""

    replica: ReplicaId
    deployment: DeploymentName
    version: str
    pilot: PilotId
    state: ReplicaState
    resting: bool = False


@dataclass(frozen=True, kw_only=True)
class View:
    """All that the decision depends on. New ids are ``seed`` and numbers from ``next_number`` on."""

    policy: Policy
    wanted: tuple[Wanted, ...]
    pilots: tuple[Pilot, ...]
    replicas: tuple[Replica, ...]
    seed: str
    next_number: int
    submit_not_before_s: float = 0.0


@dataclass(frozen=True)
class SubmitPilot:
    """Submit a pilot job under this new id.

    ``lacking``: for so many replicas, or for some of them. ``full``: with all the nodes that it may have.
    """

    pilot: PilotId
    lacking: int = field(default=0, compare=False)
    full: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class CancelPilot:
    """End a pilot job that runs nothing."""

    pilot: PilotId


@dataclass(frozen=True)
class StartReplica:
    """Have the agent of ``pilot`` start a replica under this new id."""

    replica: ReplicaId
    deployment: DeploymentName
    version: str
    pilot: PilotId


@dataclass(frozen=True)
class RetireReplica:
    """Give a replica no new work."""

    replica: ReplicaId


@dataclass(frozen=True)
class StopReplica:
    """Have its agent end a replica that holds no work."""

    replica: ReplicaId


Change = SubmitPilot | CancelPilot | StartReplica | RetireReplica | StopReplica


def reconcile(view: View, now: float) -> tuple[Change, ...]:
    """What to do next, in this order.

    Args:
        view: Everything that is wanted and that there is.
        now: Monotonic seconds, of the clock that the view's times are of.
    """
    plan = _Plan(view, now)
    plan.let_go_of_the_unwanted()
    plan.place()
    plan.drop_surplus()
    plan.submit()
    plan.make_room()
    plan.cancel()
    return tuple(plan.changes)


class _Plan:
    """One run of :func:`reconcile`: the view, and what has been decided so far."""

    def __init__(self, view: View, now: float) -> None:
        self._view = view
        self._now = now
        self._number = view.next_number
        self.changes: list[Change] = []
        self._wanted = {wanted.name: wanted for wanted in sorted(view.wanted, key=lambda wanted: wanted.name)}
        self._draining = {pilot.pilot for pilot in view.pilots if pilot.is_draining(now)}
        self._used = Counter(replica.pilot for replica in view.replicas)
        wanted = sum(each.replicas for each in view.wanted if not each.failed)
        self._places = Places(view.policy, view.pilots, used=dict(self._used), wanted=wanted, now=now)
        self._surplus = self._places.surplus
        self._open = {pilot.pilot: pilot for pilot in view.pilots if self._is_open(pilot)}
        self._spread = Counter((replica.deployment, replica.pilot) for replica in view.replicas)
        self._held = Counter(each.deployment for each in view.replicas if each.state not in ENDING)
        self._old: dict[DeploymentName, list[Replica]] = {}
        self._missing: dict[DeploymentName, int] = {}
        self._later = 0
        self._submitted = 0

    def let_go_of_the_unwanted(self) -> None:
        """Sorts the replicas into those that count, those that go now, and those that go later."""
        of: dict[DeploymentName, list[Replica]] = {name: [] for name in self._wanted}
        for replica in sorted(self._view.replicas, key=lambda replica: replica.replica):
            if replica.state == "retired":
                self.changes.append(StopReplica(replica.replica))
            elif replica.state in ("starting", "ready"):
                of.setdefault(replica.deployment, []).append(replica)
        for name, replicas in of.items():
            wanted = self._wanted.get(name)
            if wanted is None:
                self._let_go(replicas)
            else:
                self._settle(wanted, replicas)

    def _settle(self, wanted: Wanted, replicas: list[Replica]) -> None:
        current = [replica for replica in replicas if self._counts(replica, wanted)]
        # Those that serve stay before those that start, and those in full pilots: the others become empty, and end.
        current.sort(key=lambda replica: (replica.state != "ready", -self._used[replica.pilot], replica.pilot))
        self._let_go(current[wanted.replicas :])
        current = current[: wanted.replicas]
        old = [replica for replica in replicas if not self._counts(replica, wanted)]
        self._let_go(replica for replica in old if replica.state == "starting" or replica.resting)
        serving = [replica for replica in old if replica.state == "ready" and not replica.resting]
        self._let_go(replica for replica in serving if replica.pilot in self._draining)
        serving = [replica for replica in serving if replica.pilot not in self._draining]
        ready = sum(replica.state == "ready" for replica in current)
        spare = max(0, ready + len(serving) - wanted.replicas)
        self._let_go(serving[:spare])
        self._old[wanted.name] = serving[spare:]
        missing = wanted.replicas - len(current)
        if wanted.failed or missing == 0:
            return
        if self._now < wanted.not_before_s:
            self._later += missing
        else:
            self._missing[wanted.name] = missing

    def place(self) -> None:
        """Starts missing replicas where there is room, always one of the deployment that has the fewest."""
        while lacking := [name for name, missing in self._missing.items() if missing]:
            if not self._place_one(min(lacking, key=self._turn)):
                return

    def _turn(self, name: DeploymentName) -> tuple[int, float, DeploymentName]:
        return self._held[name], self._wanted[name].waits_since_s, name

    def _place_one(self, name: DeploymentName) -> bool:
        room = [pilot for pilot in self._open.values() if pilot.reported and self._free(pilot) > 0]
        if not room:
            return False
        best = min(room, key=lambda pilot: (self._spread[name, pilot.pilot], -self._free(pilot), pilot.pilot))
        self.changes.append(StartReplica(ReplicaId(self._new_id(name)), name, self._wanted[name].version, best.pilot))
        self._used[best.pilot] += 1
        self._spread[name, best.pilot] += 1
        self._held[name] += 1
        self._missing[name] -= 1
        return True

    def drop_surplus(self) -> None:
        """Has pilots beyond the most end although what they run finds no room elsewhere, nor will."""
        ending = any(each.state in ENDING and each.pilot in self._open for each in self._view.replicas)
        for name, missing in self._missing.items():
            if missing and not self._coming and not ending:
                self._let_go(replica for replica in self._old[name] if replica.pilot in self._surplus)

    def submit(self) -> None:
        """Asks for pilots for what found no room and for which none is coming."""
        lacking = self._unplaced - self._coming
        if lacking <= 0 or self._now < self._view.submit_not_before_s:
            return
        if any(pilot.phase == "unknown" for pilot in self._view.pilots):
            return
        slots = self._view.policy.slots
        places = self._places
        for number in range(min(-(-lacking // slots), self._may_submit, places.queue)):
            left = min(slots, lacking - number * slots)
            full = number >= places.free or not self._view.policy.may_grow
            self.changes.append(SubmitPilot(PilotId(self._new_id("pilot")), left, full))
            self._submitted += 1

    def make_room(self) -> None:
        """Lets one old replica of a deployment go early where its replacement would never find room."""
        if self._unplaced <= self._coming + self._submitted * self._view.policy.slots:
            return
        leaving = {replica.deployment for replica in self._view.replicas if replica.state in ENDING}
        if any(pilot.phase in ("unknown", "leaving") for pilot in self._view.pilots):
            return
        if self._submitted < self._may_submit:
            return  # the next pilot may come after a pause
        for name, missing in self._missing.items():
            movable = [replica for replica in self._old[name] if replica.pilot in self._open]
            if missing and movable and name not in leaving and not self._let_go_of(name):
                self._let_go(movable[:1])

    def cancel(self) -> None:
        """Ends pilots that have nothing to run and that nothing waits for."""
        spare = self._coming - self._unplaced - self._later
        for pilot in sorted(self._view.pilots, key=lambda pilot: pilot.pilot, reverse=True):
            if pilot.phase in ("leaving", "unknown"):
                continue
            if self._is_orphaned(pilot) or (pilot.is_closing(self._now) and not self._used[pilot.pilot]):
                self.changes.append(CancelPilot(pilot.pilot))
                continue
            if self._used[pilot.pilot]:
                continue
            coming = self._is_coming(pilot)
            if pilot.pilot not in self._surplus:
                if self._now < pilot.idle_since_s + self._view.policy.idle_s:
                    continue
                if (coming and spare < pilot.slots) or (not coming and self._later):
                    continue
            spare -= pilot.slots if coming else 0
            self.changes.append(CancelPilot(pilot.pilot))

    @property
    def _unplaced(self) -> int:
        return sum(self._missing.values())

    @property
    def _coming(self) -> int:
        return sum(self._free(pilot) for pilot in self._view.pilots if self._is_coming(pilot))

    @property
    def _may_submit(self) -> int:
        """Pilots that there may be beside those that there are, or in the place of one that is too small."""
        return self._places.free + self._places.outgrown

    def _is_coming(self, pilot: Pilot) -> bool:
        """Its slots will be there without anything being done."""
        gone = pilot.phase in ("leaving", "suspended") or pilot.away_since_s is not None
        return not gone and not pilot.reported

    def _is_open(self, pilot: Pilot) -> bool:
        gone = pilot.phase in ("leaving", "suspended") or pilot.pilot in self._surplus
        return not gone and not pilot.is_replaced(self._now)

    def _is_orphaned(self, pilot: Pilot) -> bool:
        away_s = 0.0 if pilot.away_since_s is None else self._now - pilot.away_since_s
        return away_s >= self._view.policy.orphan_s

    def _counts(self, replica: Replica, wanted: Wanted) -> bool:
        return replica.version == wanted.version and replica.pilot in self._open

    def _free(self, pilot: Pilot) -> int:
        return max(0, pilot.slots - self._used[pilot.pilot])

    def _let_go(self, replicas: Iterable[Replica]) -> None:
        for replica in replicas:
            ready = replica.state == "ready"
            self.changes.append((RetireReplica if ready else StopReplica)(replica.replica))

    def _let_go_of(self, name: DeploymentName) -> bool:
        gone = {change.replica for change in self.changes if isinstance(change, (RetireReplica, StopReplica))}
        return any(replica.deployment == name and replica.replica in gone for replica in self._view.replicas)

    def _new_id(self, noun: str) -> str:
        self._number += 1
        return f"{noun}-{self._view.seed}{self._number - 1}"
