"""What is wanted of each deployment: which version, and how many replicas, as users say or the demand does.

What a deployment's demand needs is decided in :mod:`hpcserve.core.scaling`; here stands when it is asked, and what
holds before it was. What each gets where all together want more than there is room for is decided in
:mod:`hpcserve.core.fairness`, and what follows for replicas and pilots in :mod:`hpcserve.core.deployments`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from hpcserve.core.capacity import most_replicas, most_slots
from hpcserve.core.fairness import Wish, fair_shares
from hpcserve.core.fleetbook import FleetPilot
from hpcserve.core.fleetview import ENDING, Policy
from hpcserve.core.guesses import credible
from hpcserve.core.rollout import FleetDeployment, Restarts, Version
from hpcserve.core.room import Room
from hpcserve.core.roster import Roster
from hpcserve.core.scaling import Demand, Scale, Scaler
from hpcserve.core.succession import Succession
from hpcserve.core.width import ONE, Width, width, width_of
from hpcserve.types import DeploymentName, PilotId


class Wishes:
    """Keeps the deployments of a roster.

    Args:
        roster: All deployments, pilots and replicas.
        back_off: Makes the back-off of one deployment.
        succession: Knows how long pilots waited in the queue.
    """

    def __init__(self, roster: Roster, back_off: Callable[[], Restarts], succession: Succession) -> None:
        self._roster = roster
        self._back_off = back_off
        self._succession = succession

    def want(self, name: DeploymentName, version: Version, replicas: int, scale: Scale | None) -> None:
        """A deployment is to be served; see :meth:`hpcserve.core.fleet.Fleet.want`."""
        before = self._roster.deployments.get(name)
        scaler = _scaler(scale, None if before is None else before.scaler)
        if scaler is not None:
            replicas = scaler.bounded(scaler.scale.least if scaler.target is None else scaler.target.replicas)
        self._roster.deployments[name] = FleetDeployment(
            name=name,
            version=version,
            replicas=replicas,
            scaler=scaler,
            restarts=self._back_off(),
            waits_since_s=before.waits_since_s if before is not None else math.inf,
            served=before.served if before is not None else None,
            answered=0 if before is None else None,  # what the version before it answers is not its own work
        )

    def unwant(self, name: DeploymentName) -> None:
        """A deployment is not to be served any more; see :meth:`hpcserve.core.fleet.Fleet.unwant`."""
        self._roster.deployments.pop(name, None)
        for replica in self._roster.replicas.values():
            if replica.deployment == name and replica.state == "ready":
                replica.state = "retiring"

    def demand(self, counted: Mapping[DeploymentName, Demand], policy: Policy, now: float) -> bool:
        """The broker has counted; see :meth:`hpcserve.core.fleet.Fleet.demand`."""
        wait_s = self._expected_wait_s(now)
        alive = self._roster.alive()
        there = Counter(each.deployment for each in alive)
        running = {name: pilot for name, pilot in self._roster.pilots.items() if pilot.reported}
        held = Counter(each.deployment for each in alive if each.pilot in running)
        rooms = self._rooms(policy, running)
        changed = False
        for name, demand in counted.items():
            known = self._roster.deployments.get(name)
            if known is None or known.scaler is None:
                continue
            wide = width_of(known.ranks, policy.replicas_per_gpu)
            room = _fits(wide, rooms) + held[name]
            target = known.scaler.observe(demand, there=there[name], room=room, wait_s=wait_s, now=now)
            changed = changed or target.replicas != known.replicas
            known.replicas = target.replicas
        return changed

    def _rooms(self, policy: Policy, pilots: Mapping[PilotId, FleetPilot]) -> list[Room]:
        """What is free in these pilots."""
        alive = [(each, width_of(each.version.ranks, policy.replicas_per_gpu)) for each in self._roster.alive()]
        asked = (width_of(each.ranks, policy.replicas_per_gpu) for each in self._roster.deployments.values())
        is_wide = any(wide != ONE for wide in (*asked, *(wide for _, wide in alive)))
        rooms = {name: Room(pilot.slots, policy.node_slots if is_wide else 0) for name, pilot in pilots.items()}
        for each, wide in sorted(alive, key=lambda pair: (len(pair[0].nodes) < pair[1].nodes, not pair[0].nodes)):
            if each.pilot in rooms:
                rooms[each.pilot].take(wide, each.nodes, each.slots)
        return list(rooms.values())

    def _expected_wait_s(self, now: float) -> float:
        """How long until more pilots are there: what the scheduler says of those that wait, else what others waited."""
        queued = (pilot for pilot in self._roster.pilots.values() if pilot.phase == "queued")
        guesses = (credible(pilot.starts_s - now) for pilot in queued if pilot.starts_s is not None)
        return min((guess for guess in guesses if guess is not None), default=self._succession.expected_wait_s)

    def keep_the_unmeasured(self) -> None:
        """What an earlier controller scaled stays as it is until the demand is known."""
        there = Counter(each.deployment for each in self._roster.alive())
        for known in self._roster.deployments.values():
            if known.scaler is not None and known.scaler.target is None:
                known.replicas = known.scaler.bounded(there[known.name])

    def try_again(self, now: float) -> None:
        """What failed with the pilots a while ago is tried again, and what may sleep once somebody asks for it."""
        for known in self._roster.deployments.values():
            if now >= known.again_s:
                known.try_again()

    def share(self, policy: Policy, now: float) -> None:
        """Gives each deployment that is scaled what there is room for; the others have what they were promised.

        Args:
            policy: How much room there is for all together.
            now: Monotonic seconds.
        """
        held = Counter(each.deployment for each in self._roster.alive() if each.state not in ENDING)
        wishes = []
        for known in self._roster.deployments.values():
            if held[known.name] or not known.replicas:
                known.waits_since_s = math.inf
            else:
                known.waits_since_s = min(known.waits_since_s, now)
            if known.target is not None:
                wishes.append(
                    Wish(
                        name=known.name,
                        wanted=max(known.promised, min(known.replicas, most_replicas(policy, known.ranks))),
                        promised=known.promised,
                        held=held[known.name],
                        waits_since_s=known.waits_since_s,
                        width=width(known.ranks, policy.replicas_per_gpu),
                    )
                )
        shares = fair_shares(most_slots(policy), wishes)
        for known in self._roster.deployments.values():
            known.share = None if known.scaler is None else shares.get(known.name)

    def recall(self) -> None:
        """All that is wanted was wanted before; see :meth:`hpcserve.core.fleet.Fleet.recall`."""
        for known in self._roster.deployments.values():
            known.answered = None

    def remember(self, name: DeploymentName, served: Version, failure: str) -> None:
        """What an earlier controller saw; see :meth:`hpcserve.core.fleet.Fleet.remember`."""
        known = self._roster.deployments[name]
        known.served = served
        if failure and served != known.version:
            known.fail(failure, "", pilots_ended=False)


def _fits(wide: Width, rooms: Collection[Room]) -> int:
    """How many more replicas of a width there is room for."""
    return max(0, sum(room.left for room in rooms)) if wide == ONE else sum(room.count(wide) for room in rooms)


def _scaler(scale: Scale | None, before: Scaler | None) -> Scaler | None:
    """A deployment that is scaled goes on with what it knows of its demand."""
    if scale is None:
        return None
    if before is None:
        return Scaler(scale)
    before.scale = scale
    return before
