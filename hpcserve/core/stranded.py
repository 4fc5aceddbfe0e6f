"""Which replicas wait at their agent for room that is not there, nor will be. Pure.

The controller starts a wide replica where it thinks that there is room, by the rule that the agent goes by, too
(:mod:`hpcserve.core.seats`). But orders cross with what ends meanwhile, an earlier controller may have given others,
and a node may be lost: then the agent has the replica wait. As long as it counts as started, nothing is done for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpcserve.core.fleetview import ENDING, Pilot, Replica
from hpcserve.core.room import Room
from hpcserve.core.width import ONE
from hpcserve.types import ReplicaId


def stranded(pilots: Iterable[Pilot], replicas: Iterable[Replica], node_slots: int) -> frozenset[ReplicaId]:
    """Those for which there is no room beside the others, once those that end are gone.

    Nothing is said of a pilot while it is not known where all its other replicas are.

    Args:
        pilots: Those whose agents are there.
        replicas: All that there are, in the order in which they were decided.
        node_slots: The slots of a node.
    """
    found: set[ReplicaId] = set()
    everybody = list(replicas)
    waiting = {each.pilot for each in everybody if each.waits and each.width != ONE}
    for pilot in pilots:
        if pilot.pilot not in waiting:
            continue
        inside = [each for each in everybody if each.pilot == pilot.pilot]
        if any(not each.hosts and not each.waits for each in inside):
            continue
        room = Room(pilot.slots, node_slots)
        for each in sorted((each for each in inside if each.state not in ENDING), key=lambda each: each.waits):
            if not each.waits or room.fits(each.width):
                room.take(each.width, each.hosts, each.slots)
            else:
                found.add(each.replica)
    return frozenset(found)
