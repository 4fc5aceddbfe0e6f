"""In which pilot room is made for a wide replica that fits nowhere, and who is in its way there. Pure.

Where narrow replicas hold a slot here and there, a wide one could wait for ever: each slot that becomes free is taken
before there are enough. So one pilot is kept for it: nothing else is started there until it fits, and what ends there
makes room. It is the one in which the fewest slots of narrower replicas are in the way; wider ones, and others of its
own kind, are never in the way. Whether these wait until they end by themselves, or move, is decided in
:mod:`hpcserve.core.deployments`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcserve.core.room import Room
from hpcserve.core.width import Width
from hpcserve.types import PilotId, ReplicaId


@dataclass(frozen=True)
class Tenant:
    """A replica in a pilot, on these hosts, as far as they are known. ``ends``: it holds its slots for a while."""

    replica: ReplicaId
    width: Width
    hosts: tuple[str, ...] = ()
    ends: bool = False


@dataclass(frozen=True)
class Clearing:
    """``pilot`` is kept: once those that end there and those ``in_the_way`` are gone, there is room."""

    pilot: PilotId
    in_the_way: frozenset[ReplicaId]


def best_clearing(
    width: Width, tenants: Mapping[PilotId, Sequence[Tenant]], slots: Mapping[PilotId, int], node_slots: int
) -> Clearing | None:
    """The pilot to keep; None if in none of them room can be made.

    Args:
        width: Of the replica that waits.
        tenants: Who is in each pilot that may be kept.
        slots: How many each of them has.
        node_slots: The slots of a node.
    """
    found: list[tuple[int, PilotId, Clearing]] = []
    for pilot, inside in tenants.items():
        moved = _in_the_way(width, Room(slots[pilot], node_slots), inside)
        if moved is not None:
            cost = sum(each.width.slots for each in moved)
            found.append((cost, pilot, Clearing(pilot, frozenset(each.replica for each in moved))))
    return min(found, key=lambda each: each[:2])[2] if found else None


def _in_the_way(width: Width, room: Room, inside: Sequence[Tenant]) -> list[Tenant] | None:
    """Those narrower ones without which a replica fits, once those that end are gone; None: it never does."""
    staying = [each for each in inside if not each.ends]
    staying.sort(key=lambda each: (len(each.hosts) < each.width.nodes, not each.hosts, each.replica))
    where = [(each, room.take(each.width, each.hosts)) for each in staying]
    narrow = [(each, nodes) for each, nodes in where if each.width.turn > width.turn]
    moved: list[Tenant] = []
    while not room.fits(width):
        # From the node that lacks least: all who are in the way on one go before another is touched.
        lacking = sorted(
            (width.per_node - free, node)
            for node, free in enumerate(room.free)
            if free < width.per_node <= free + sum(each.width.per_node for each, nodes in narrow if node in nodes)
        )
        if not lacking:
            return None
        go = next(pair for pair in narrow if lacking[0][1] in pair[1])
        narrow.remove(go)
        moved.append(go[0])
        room.give_back(go[0].width, go[1])
    return moved
