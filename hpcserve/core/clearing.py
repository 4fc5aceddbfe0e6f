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

from hpcserve.core.room import Held, Room
from hpcserve.core.width import Width
from hpcserve.types import PilotId, ReplicaId


@dataclass(frozen=True)
class Tenant:
    """A replica in a pilot, on these hosts and their slots, as far as they are known.

    ``ends``: it holds its slots for a while.
    """

    replica: ReplicaId
    width: Width
    hosts: tuple[str, ...] = ()
    slots: tuple[tuple[int, ...], ...] = ()
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
    where = [(each, room.take(each.width, each.hosts, each.slots)) for each in staying]
    narrow = [(each, taken) for each, taken in where if each.width.turn > width.turn]
    without = room.copy()
    for each, taken in narrow:
        without.give_back(each.width, taken)
    could_be = without.free_for(width)
    moved: list[Tenant] = []
    while not room.fits(width):
        # From the node that lacks least: all who are in the way on one go before another is touched.
        lacking = sorted(
            (width.per_node - free, node)
            for node, free in enumerate(room.free_for(width))
            if free < width.per_node <= could_be[node]
        )
        if not lacking:
            return None
        go = _first_to_go(width, lacking[0][1], narrow, (without, room))
        narrow.remove(go)
        moved.append(go[0])
        room.give_back(go[0].width, go[1])
    return moved


def _first_to_go(
    width: Width, node: int, narrow: Sequence[tuple[Tenant, Held]], rooms: Sequence[Room]
) -> tuple[Tenant, Held]:
    """Of those on a node; where whole GPUs are to be free, one of whose GPU least is held, in the first room first."""
    here = [pair for pair in narrow if node in pair[1]]
    if width.per_gpu == 1:
        return here[0]
    return min(here, key=lambda pair: [room.held_beside(node, pair[1][node], width.per_gpu) for room in rooms])
