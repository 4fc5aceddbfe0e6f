"""Which replicas and pilot jobs there should be, given what there is. One pure function.

It compares what is wanted with what is, and returns the difference as actions. Carried out and asked again,
it returns nothing: there is no memory here, so a controller that was restarted decides as the old one did.

The rules:

* a replica counts for its deployment while it is of the wanted version and its pilot is *open*: it runs, its agent
  is there, and its end is not near. Nor does one count for which its agent has no room, nor will have. Every other
  replica is *old*;
* an old one is let go only when enough others are ready to do its work; where there is no room for its
  replacement and none is coming, it makes room first;
* an old one that has other methods than callers see, and so rests, is let go at once;
* a ready replica is let go in two steps: it gets no new work, and is stopped once it holds none;
* a deployment's replicas are spread over the pilots; no pilot holds more than its slots. What is free goes to the
  deployment with the fewest slots; of those with none, to the one that has waited longest;
* a *wide* replica, of several slots, is in one pilot. Where it has no room, and no pilot comes for it, one pilot is
  kept for it until it fits (:mod:`hpcserve.core.clearing`). If the pilots hold all that is wanted, narrower ones that
  are in its way are *old*, for the widest one first. Else everybody stays, and it is kept for the one whose turn it is;
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

from collections import Counter
from collections.abc import Iterable, Mapping

from hpcserve.core.clearing import Clearing, Tenant, best_clearing
from hpcserve.core.fleetview import (
    ENDING,
    CancelPilot,
    Change,
    Pilot,
    Replica,
    RetireReplica,
    StartReplica,
    StopReplica,
    SubmitPilot,
    View,
    Wanted,
)
from hpcserve.core.places import Places
from hpcserve.core.room import Room, nodes_for, packed, slots_of
from hpcserve.core.stranded import stranded
from hpcserve.core.width import ONE, Width
from hpcserve.types import DeploymentName, PilotId, ReplicaId


def reconcile(view: View, now: float) -> tuple[Change, ...]:
    """What to do next, in this order.

    Args:
        view: Everything that is wanted and that there is.
        now: Monotonic seconds, of the clock that the view's times are of.
    """
    plan = _Plan(view, now)
    plan.let_go_of_the_unwanted()
    plan.place()
    if plan.in_the_way:  # of whom it is only known now that they are to be replaced
        plan = _Plan(view, now, moving=plan.in_the_way)
        plan.let_go_of_the_unwanted()
        plan.place()
    plan.drop_surplus()
    plan.submit()
    plan.make_room()
    plan.cancel()
    return tuple(plan.changes)


class _Plan:
    """One run of :func:`reconcile`: the view, and what has been decided so far."""

    def __init__(self, view: View, now: float, moving: frozenset[ReplicaId] = frozenset()) -> None:
        self._view = view
        self._moving = moving
        self._now = now
        self._number = view.next_number
        self.changes: list[Change] = []
        self._wanted = {wanted.name: wanted for wanted in sorted(view.wanted, key=lambda wanted: wanted.name)}
        self._draining = {pilot.pilot for pilot in view.pilots if pilot.is_draining(now)}
        self._used: Counter[PilotId] = Counter()
        self._held: Counter[DeploymentName] = Counter()
        for replica in view.replicas:
            self._used[replica.pilot] += replica.width.slots
            if replica.state not in ENDING:
                self._held[replica.deployment] += replica.width.slots
        self._all_wanted: Counter[Width] = Counter()
        for each in view.wanted:
            if not each.failed and self._fits_at_all(each.width):
                self._all_wanted[each.width] += each.replicas
        self._places = Places(view.policy, view.pilots, used=dict(self._used), wanted=self._all_wanted, now=now)
        self._surplus = self._places.surplus
        self._open = {pilot.pilot: pilot for pilot in view.pilots if self._is_open(pilot)}
        there = [each for each in self._open.values() if each.reported]
        self._stranded = stranded(there, view.replicas, view.policy.node_slots)
        self._spread = Counter((replica.deployment, replica.pilot) for replica in view.replicas)
        self._rooms = _rooms_of(view)
        self._coming = {each.pilot: self._rooms[each.pilot] for each in view.pilots if self._is_coming(each)}
        self._old: dict[DeploymentName, list[Replica]] = {}
        self._missing: dict[DeploymentName, int] = {}
        self._later: Counter[Width] = Counter()
        self._new: list[Room] = []
        self._all_fit = False
        self._kept: Clearing | None = None
        self._kept_for: DeploymentName | None = None

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
        if wanted.failed or missing == 0 or not self._fits_at_all(wanted.width):
            return
        if self._now < wanted.not_before_s:
            self._later[wanted.width] += missing
        else:
            self._missing[wanted.name] = missing

    def place(self) -> None:
        """Starts missing replicas where there is room, always one of the deployment that has the fewest slots."""
        self._seat_the_wide()
        self._keep_a_pilot()
        lacking = {name for name, missing in self._missing.items() if missing}
        while lacking:
            name = min(lacking, key=self._turn)
            if not self._place_one(name) or not self._missing[name]:
                lacking.discard(name)

    def _seat_the_wide(self) -> None:
        """Wide ones take the pilot that came for them, where those whose turn it is first have room in one that comes.

        Else a narrow one could eat each pilot that comes for a wide one, and those that it waits for come in vain.
        """
        lacking = [name for name, missing in self._missing.items() if missing and self._wanted[name].width != ONE]
        for name in sorted(lacking, key=lambda name: (self._wanted[name].width.turn, self._turn(name))):
            width = self._wanted[name].width
            if any(room.fits(width) for room in self._coming.values()):
                continue
            while self._missing[name] and self._leaves_room(name) and self._place_one(name):
                continue

    def _leaves_room(self, name: DeploymentName) -> bool:
        """Whether narrower ones that are before this one in turn have room beside it, or in a pilot that comes."""
        width = self._wanted[name].width
        load = Counter({width: 1})
        for other, missing in self._missing.items():
            if self._wanted[other].width.turn > width.turn and self._turn(other) < self._turn(name):
                load[self._wanted[other].width] += missing
        there = [self._rooms[each.pilot] for each in self._open.values() if each.reported]
        return not packed(load, [room.copy() for room in (*there, *self._coming.values())])

    def _turn(self, name: DeploymentName) -> tuple[int, float, DeploymentName]:
        return self._held[name], self._wanted[name].waits_since_s, name

    def _keep_a_pilot(self) -> None:
        """Chooses the pilot in which room is made for the first wide replica that would never find any.

        Where all that is wanted has room the wide ones are placed first: what left a pilot for one does not come back.
        """
        lacking = [name for name, missing in self._missing.items() if missing and self._wanted[name].width != ONE]
        if not lacking or self._may_submit:
            return
        slots = {each.pilot: each.slots for each in self._open.values() if each.reported}
        rooms = [*(self._rooms[pilot] for pilot in slots), *self._coming.values()]
        empty = [Room(each, self._view.policy.node_slots) for each in slots.values()]
        self._all_fit = not packed(self._all_wanted, empty)
        lacking.sort(key=lambda name: (self._wanted[name].width.turn if self._all_fit else (0, 0), self._turn(name)))
        for name in lacking:
            width = self._wanted[name].width
            while self._all_fit and self._missing[name] and self._place_one(name):
                continue
            if self._missing[name] and not any(room.fits(width) for room in rooms):
                self._kept = best_clearing(width, self._tenants(), slots, self._view.policy.node_slots)
                self._kept_for = name
                if self._kept is not None:
                    return

    def _tenants(self) -> dict[PilotId, list[Tenant]]:
        """Who is in the pilots that could be kept."""
        found: dict[PilotId, list[Tenant]] = {each.pilot: [] for each in self._open.values() if each.reported}
        for replica in self._view.replicas:
            if replica.pilot in found:
                ends = replica.state in ENDING or self._is_let_go(replica.replica)
                found[replica.pilot].append(
                    Tenant(replica.replica, replica.width, replica.hosts, replica.slots, ends=ends)
                )
        return found

    def _place_one(self, name: DeploymentName) -> bool:
        width = self._wanted[name].width
        kept = self._kept.pilot if self._kept is not None and self._is_after_the_kept(name) else None
        room = [
            pilot
            for pilot in self._open.values()
            if pilot.reported and pilot.pilot != kept and self._rooms[pilot.pilot].fits(width)
        ]
        if not room:
            return False
        best = min(room, key=lambda pilot: (self._spread[name, pilot.pilot], -self._free(pilot), pilot.pilot))
        self.changes.append(StartReplica(ReplicaId(self._new_id(name)), name, self._wanted[name].version, best.pilot))
        self._used[best.pilot] += width.slots
        self._rooms[best.pilot].take(width)
        self._spread[name, best.pilot] += 1
        self._held[name] += width.slots
        self._missing[name] -= 1
        return True

    def _is_after_the_kept(self, name: DeploymentName) -> bool:
        assert self._kept_for is not None, "a pilot is kept for somebody"
        return name != self._kept_for and (self._all_fit or self._turn(name) > self._turn(self._kept_for))

    @property
    def in_the_way(self) -> frozenset[ReplicaId]:
        """Those that make room for the wide replica for which a pilot is kept: for all there is room elsewhere."""
        if self._kept is None or not self._all_fit:
            return frozenset()
        return frozenset(each for each in self._kept.in_the_way if not self._is_let_go(each))

    def drop_surplus(self) -> None:
        """Has pilots beyond the most end although what they run finds no room elsewhere, nor will."""
        ending = any(each.state in ENDING and each.pilot in self._open for each in self._view.replicas)
        is_coming = any(room.left > 0 for room in self._coming.values())
        for name, missing in self._missing.items():
            if missing and not is_coming and not ending:
                self._let_go(replica for replica in self._old[name] if replica.pilot in self._surplus)

    def submit(self) -> None:
        """Asks for pilots for what found no room and for which none is coming."""
        lacking = self._unplaced_in(self._coming.values())
        if not lacking or self._now < self._view.submit_not_before_s:
            return
        if any(pilot.phase == "unknown" for pilot in self._view.pilots):
            return
        policy, places = self._view.policy, self._places
        most = min(self._may_submit, places.queue)
        for number in range(most if self._view.submit_at_most is None else min(most, self._view.submit_at_most)):
            room = Room(policy.slots, policy.node_slots)
            left = packed(lacking, [room])
            inside = lacking - left
            if not inside:
                return
            full = number >= places.free or not policy.may_grow
            self.changes.append(
                SubmitPilot(
                    PilotId(self._new_id("pilot")),
                    slots_of(inside),
                    full,
                    nodes=nodes_for(inside, policy.nodes, policy.node_slots),
                    least_nodes=max(width.nodes for width in inside),
                )
            )
            self._new.append(Room(policy.slots, policy.node_slots))
            lacking = left

    def make_room(self) -> None:
        """Lets old replicas go before others are ready where these would never find room.

        One of each deployment at a time; of those in the way of a wide one, as many as have no room elsewhere.
        """
        if not self._unplaced_in([*self._coming.values(), *self._new]):
            return
        leaving = {replica.deployment for replica in self._view.replicas if replica.state in ENDING}
        if any(pilot.phase in ("unknown", "leaving") for pilot in self._view.pilots):
            return
        if len(self._new) < self._may_submit:
            return  # the next pilot may come after a pause
        kept = None if self._kept is None else self._kept.pilot
        for name, missing in self._missing.items():
            movable = [replica for replica in self._old[name] if replica.pilot in self._open]
            movable.sort(key=lambda replica: replica.pilot != kept)
            if missing and movable and name not in leaving and not self._let_go_of(name):
                self._let_go(movable[:1])
        for name, missing in self._missing.items():
            movable = [replica for replica in self._old[name] if replica.replica in self._moving]
            staying = [replica for replica in movable if not self._is_let_go(replica.replica)]
            self._let_go(staying[: max(0, missing - (len(movable) - len(staying)))])

    def cancel(self) -> None:
        """Ends pilots that have nothing to run and that nothing waits for."""
        coming = dict(self._coming)
        for pilot in sorted(self._view.pilots, key=lambda pilot: pilot.pilot, reverse=True):
            if pilot.phase in ("leaving", "unknown"):
                continue
            if self._is_orphaned(pilot) or (pilot.is_closing(self._now) and not self._used[pilot.pilot]):
                self.changes.append(CancelPilot(pilot.pilot))
                continue
            if self._used[pilot.pilot]:
                continue
            is_coming = pilot.pilot in self._coming
            if pilot.pilot not in self._surplus:
                if self._now < pilot.idle_since_s + self._view.policy.idle_s:
                    continue
                others = [room for each, room in coming.items() if each != pilot.pilot]
                if (is_coming and self._unplaced_in(others, self._later)) or (not is_coming and self._later):
                    continue
            coming.pop(pilot.pilot, None)
            self.changes.append(CancelPilot(pilot.pilot))

    def _unplaced_in(self, rooms: Iterable[Room], later: Mapping[Width, int] | None = None) -> Counter[Width]:
        """What found no room in a pilot that is there, nor does in these, with what is to come ``later``."""
        unplaced = Counter(later or {})
        for name, missing in self._missing.items():
            unplaced[self._wanted[name].width] += missing
        return packed(unplaced, [room.copy() for room in rooms])

    @property
    def _may_submit(self) -> int:
        """Pilots that there may be beside those that there are, or in the place of one that is too small."""
        return self._places.free + self._places.outgrown

    def _fits_at_all(self, width: Width) -> bool:
        return Room(self._view.policy.slots, self._view.policy.node_slots).fits(width)

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
        is_there = replica.pilot in self._open and replica.replica not in self._stranded | self._moving
        return replica.version == wanted.version and is_there

    def _free(self, pilot: Pilot) -> int:
        return max(0, pilot.slots - self._used[pilot.pilot])

    def _let_go(self, replicas: Iterable[Replica]) -> None:
        for replica in replicas:
            ready = replica.state == "ready"
            self.changes.append((RetireReplica if ready else StopReplica)(replica.replica))

    def _let_go_of(self, name: DeploymentName) -> bool:
        gone = {change.replica for change in self.changes if isinstance(change, (RetireReplica, StopReplica))}
        return any(replica.deployment == name and replica.replica in gone for replica in self._view.replicas)

    def _is_let_go(self, replica: ReplicaId) -> bool:
        going = (change for change in self.changes if isinstance(change, (RetireReplica, StopReplica)))
        return any(change.replica == replica for change in going)

    def _new_id(self, noun: str) -> str:
        self._number += 1
        return f"{noun}-{self._view.seed}{self._number - 1}"


def _rooms_of(view: View) -> dict[PilotId, Room]:
    """What is free in each pilot."""
    is_wide = any(width != ONE for width in (*_widths(view.wanted), *_widths(view.replicas)))
    node_slots = view.policy.node_slots if is_wide else 0
    rooms = {each.pilot: Room(each.slots, node_slots) for each in view.pilots}
    # Those whose nodes are known first, in which order they stand does not matter then.
    for replica in sorted(view.replicas, key=lambda each: (len(each.hosts) < each.width.nodes, not each.hosts)):
        if replica.pilot in rooms:
            rooms[replica.pilot].take(replica.width, replica.hosts, replica.slots)
    return rooms


def _widths(them: Iterable[Wanted | Replica]) -> set[Width]:
    return {each.width for each in them}
