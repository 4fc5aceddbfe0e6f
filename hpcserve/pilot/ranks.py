"""Which nodes of a pilot, and which of their slots, the ranks of a replica take. Pure.

To which nodes it goes is decided in :mod:`hpcserve.core.seats`, as the controller counts on it. A replica of one slot
takes the lowest free one, and one beyond them all where none is free: the controller has counted, and one that is
ending holds its slot a little longer. All others take the lowest free slots only, or wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import count

from hpcserve.core.seats import seats
from hpcserve.core.width import ONE, Width, slots_per_rank
from hpcserve.servable.manifest import Ranks

Held = Mapping[str, AbstractSet[int]]
"""The slots of each node that are held; the nodes are those that can be used, in the order of the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a replica takes.

    Attributes:
        nodes: On so many nodes.
        per_node: So many ranks on each.
        gpus: So many whole GPUs for each rank; 0: any slot.
        per_gpu: So many slots share one GPU: slots 0 to ``per_gpu - 1`` the first one, and so on.
    """

    nodes: int = 1
    per_node: int = 1
    gpus: int = 0
    per_gpu: int = 1

    @property
    def slots(self) -> int:
        """How many of each node."""
        return self.per_node * slots_per_rank(self.gpus, self.per_gpu)

    @property
    def units(self) -> int:
        """How many slots of each node; where it takes whole GPUs, so many of these."""
        return self.per_node * max(1, self.gpus)

    @property
    def width(self) -> Width:
        """The same in slots."""
        return Width(self.nodes, self.slots, self.per_gpu if self.gpus else 1)

    def __str__(self) -> str:
        """In words."""
        return f"{_many(self.slots, 'slot')} on {'one node' if self.nodes == 1 else f'each of {self.nodes} nodes'}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a replica runs.

    Attributes:
        nodes: Its nodes, in the order of the job.
        ranks: Of each rank in turn, the slots of its node that it holds.
    """

    nodes: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]

    @property
    def per_node(self) -> int:
        """How many ranks run on each node."""
        return len(self.ranks) // len(self.nodes)

    @property
    def slots(self) -> tuple[tuple[int, ...], ...]:
        """Its slots of each of its nodes."""
        return tuple(tuple(sorted(self.held(node))) for node in self.nodes)

    def held(self, node: str) -> set[int]:
        """Its slots of a node."""
        if node not in self.nodes:
            return set()
        first = self.nodes.index(node) * self.per_node
        return {slot for rank in self.ranks[first : first + self.per_node] for slot in rank}

    def arguments(self, node_slots: int) -> tuple[str, ...]:
        """What the replica's command line says of it: each rank looks for itself there."""
        return "--node-slots", str(node_slots), "--ranks", ":".join(",".join(map(str, rank)) for rank in self.ranks)


def need_of(ranks: Ranks, replicas_per_gpu: int) -> Need:
    """What the replicas of a servable take."""
    return Need(nodes=ranks.nodes, per_node=ranks.per_node, gpus=ranks.gpus_per_rank, per_gpu=replicas_per_gpu)


def place(need: Need, held: Held, slots: int) -> Place | None:
    """Where a replica is to run now; None: there is no room for it.

    Args:
        need: What it takes.
        held: The slots that are held.
        slots: How many each node has.
    """
    names = list(held)
    if need.width == ONE:
        nodes = tuple(names[number] for number in seats(ONE, [slots - len(held[node]) for node in names]))
        return Place(nodes, ((_lowest(held[nodes[0]]),),)) if nodes else None
    free = {node: _units(need, taken, slots) for node, taken in held.items()}
    size = need.slots // need.units
    nodes = tuple(names[number] for number in seats(need.width, [size * len(free[node]) for node in names]))
    ranks = tuple(rank for node in nodes for rank in _ranks(free[node][: need.units], need.per_node))
    return Place(nodes, ranks) if nodes else None


def never(need: Need, nodes: int, slots: int) -> str:
    """Why a replica can never be placed on so many nodes of so many slots each; empty where it can."""
    if need.nodes <= nodes and need.slots <= slots and need.gpus * need.per_node <= slots // need.per_gpu:
        return ""
    return (
        f"it takes {need}, and this pilot has {_many(nodes, 'node')} of {_many(slots, 'slot')}: lower [ranks] of its "
        "servable, or raise pilots.nodes or pilots.slots of the site file"
    )


def waits(need: Need, held: Held, slots: int) -> str:
    """Why a replica is not placed yet."""
    free = ", ".join(f"{slots - len(taken & set(range(slots)))} of {node}" for node, taken in held.items())
    whole = f", of {_many(need.gpus * need.per_node, 'whole GPU')}" if need.gpus and need.per_gpu > 1 else ""
    return f"it waits for {need}{whole}; free slots: {free or 'none'}"


def _lowest(held: AbstractSet[int]) -> int:
    return next(slot for slot in count() if slot not in held)


def _units(need: Need, held: AbstractSet[int], slots: int) -> list[tuple[int, ...]]:
    """The free slots of a node one by one, or where whole GPUs are wanted, those of each free GPU together."""
    size = need.per_gpu if need.gpus else 1
    together = (tuple(range(first, first + size)) for first in range(0, slots - size + 1, size))
    return [unit for unit in together if held.isdisjoint(unit)]


def _ranks(units: list[tuple[int, ...]], ranks: int) -> list[tuple[int, ...]]:
    """Each rank's equal part."""
    size = len(units) // ranks
    return [tuple(slot for unit in units[at : at + size] for slot in unit) for at in range(0, len(units), size)]


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
