"""How many pilots there may be beside those that there are, and which are too many. Pure.

The cap is one on pilots, however many nodes they have. A *small* one, that has fewer nodes than the site allows, takes
a place as any other does, and what it leaves free cannot be had beside it. So it gives its place up when the demand has
outgrown all pilots together: a full one is submitted in its place, as a successor is while a pilot comes to its end,
and when that is there the small one hands over and ends. It serves until then. A demand that would fit, but for a wide
replica for which each pilot is too small, has outgrown them, too; then nodes that are lost make a pilot small.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from hpcserve.core.room import Load, Room, packed, slots_of
from hpcserve.core.width import ONE
from hpcserve.types import PilotId

if TYPE_CHECKING:
    from hpcserve.core.fleetview import Pilot, Policy


class Places:
    """The places of the pilots of one moment.

    Args:
        policy: The site's limits.
        pilots: All that have not ended.
        used: How many slots the replicas of each hold.
        wanted: The replicas that are wanted of all deployments that can have some.
        now: Monotonic seconds.

    Attributes:
        surplus: The pilots that are to hand over and end. Which ones does not change while they do.
    """

    def __init__(
        self, policy: Policy, pilots: Collection[Pilot], *, used: Mapping[PilotId, int], wanted: Load, now: float
    ) -> None:
        self._policy = policy
        self._pilots = pilots
        self._used = used
        self._wanted = wanted
        self._is_wide = any(width != ONE and count for width, count in wanted.items())
        self._lasting = [each for each in pilots if not each.is_replaced(now)]
        self._held = [each for each in self._lasting if each.phase != "leaving"]
        self.surplus = {each.pilot for each in self._too_many() if each.phase != "unknown"}

    def _too_many(self) -> list[Pilot]:
        """Those with the fewest replicas, or small ones, where the others could not hold what is wanted."""
        excess = len(self._held) - self._policy.most_pilots
        if excess <= 0:
            return []
        held = sorted(self._held, key=lambda each: each.pilot, reverse=True)
        # What nobody knows of cannot be cancelled now.
        held.sort(key=lambda each: (each.phase == "unknown", self._used.get(each.pilot, 0)))
        rest = [self._size(each) for each in held[excess:]]
        if self._is_enough(rest):
            return held[:excess]
        by_size = sorted(held, key=lambda each: (each.phase == "unknown", self._size(each)))
        larger = by_size[excess:]
        if sum(self._size(each) for each in larger) <= sum(rest):
            return held[:excess]
        coming = sum(not each.reported for each in larger)
        return by_size[: max(0, excess - coming)]

    @property
    def free(self) -> int:
        """So many pilots may be submitted beside those that there are."""
        most = self._policy.most_pilots
        return max(0, min(most - len(self._lasting), 2 * most - len(self._pilots)))

    @property
    def outgrown(self) -> int:
        """So many full ones may be submitted in the places of small ones, as all places together hold too little.

        None is while one leaves: its place will be free.
        """
        if len(self._lasting) > len(self._held) or not self._policy.may_grow:
            return 0
        most, full, count = self._policy.most_pilots, self._policy.slots, 0
        at_once = min(2 * most, self._policy.max_running or 2 * most) - len(self._pilots) - self.free
        sizes = sorted([full] * self.free + [self._size(each) for each in self._held], reverse=True)[:most]
        while count < at_once and sizes and sizes[-1] < full and not self._is_enough(sizes):
            sizes = [full, *sizes[:-1]]
            count += 1
        return count

    @property
    def queue(self) -> int:
        """So many more the queue takes now. One that was cancelled is in it until the scheduler says that it ended."""
        most = 2 * self._policy.most_pilots if self._policy.max_queued is None else self._policy.max_queued
        waiting = sum(each.phase in ("queued", "unknown", "leaving") and not each.reported for each in self._pilots)
        return max(0, most - waiting)

    def _size(self, pilot: Pilot) -> int:
        return min(pilot.size, pilot.slots) if self._is_wide else pilot.size

    def _is_enough(self, sizes: Collection[int]) -> bool:
        """Whether pilots of these sizes hold all that is wanted."""
        if slots_of(self._wanted) > sum(sizes):
            return False
        return not self._is_wide or not packed(self._wanted, [Room(size, self._policy.node_slots) for size in sizes])
