"""The free slots of a pilot, node by node, and how replicas of different widths are packed into pilots. Pure.

Of replicas that run their agent has said on which nodes, and which slots they hold. Of others it is assumed that it
does as it always does (:mod:`hpcserve.core.seats`). A replica of one slot fits wherever one is free, so for these nodes
count for nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest

from hpcserve.core.seats import seats
from hpcserve.core.width import ONE, Width

Held = Mapping[int, Sequence[int]]
"""The slots that a replica holds, of each of its nodes."""


class Room:
    """What is free in one pilot.

    Args:
        slots: Of all its nodes.
        node_slots: Of each of them; 0: nobody is wide, and so nobody asks.

    Attributes:
        left: The free slots; negative where more run than there is room for.
        free: The same of each node.
    """

    def __init__(self, slots: int, node_slots: int = 0) -> None:
        whole, rest = divmod(slots, node_slots) if node_slots else (0, 0)
        self.left = slots
        self.free = [node_slots] * whole + ([rest] if rest else [])
        self._held = [[0] * slots for slots in self.free]
        """By how many each slot is held: one that ends holds its own until its agent has said so."""
        self._named: dict[str, int] = {}

    def copy(self) -> Room:
        """Another one with the same in it."""
        made = Room(0)
        made.left, made.free, made._named = self.left, list(self.free), dict(self._named)
        made._held = [list(held) for held in self._held]
        return made

    def fits(self, width: Width) -> bool:
        """Whether there is room for a replica."""
        if self.left < width.slots:
            return False
        return width == ONE or sum(free >= width.per_node for free in self.free_for(width)) >= width.nodes

    def free_for(self, width: Width) -> list[int]:
        """The slots of each node that a replica could take: where it takes whole GPUs, those of free ones."""
        if width.per_gpu == 1:
            return self.free
        return [len(_free(held, width.per_gpu)) for held in self._held]

    def held_beside(self, node: int, slots: Iterable[int], per_gpu: int) -> int:
        """How often the slots are held of those GPUs of a node that such slots are of."""
        held, gpus = self._held[node], {slot // per_gpu for slot in slots}
        return sum(sum(held[gpu * per_gpu : (gpu + 1) * per_gpu]) for gpu in gpus)

    def take(self, width: Width, hosts: Iterable[str] = (), slots: Sequence[Sequence[int]] = ()) -> Held:
        """A replica takes its slots.

        Args:
            width: How many.
            hosts: The nodes that are known to hold it; those of whom that is known come first.
            slots: Which of each of these, as far as that is known.

        Returns:
            Its slots, by the numbers of its nodes in :attr:`free`.
        """
        self.left -= width.slots
        if not self.free:
            return {}
        of_hosts = {host: slots[place] if place < len(slots) else () for place, host in enumerate(hosts)}
        known = {number: told for host, told in of_hosts.items() if (number := self._number(host)) is not None}
        nodes = list(known)[: width.nodes] or seats(width, self.free_for(width))
        if lacking := width.nodes - len(nodes):  # more are there than there is room for
            others = (number for number in range(len(self.free)) if number not in nodes)
            nodes += nsmallest(lacking, others, key=self._emptiest)
        return {number: self._take(number, width, known.get(number, ())) for number in nodes}

    def _take(self, number: int, width: Width, told: Sequence[int]) -> Sequence[int]:
        held = self._held[number]
        its_own = [slot for slot in told if slot < len(held)] or _free(held, width.per_gpu)[: width.per_node]
        for slot in its_own:
            held[slot] += 1
        self.free[number] -= width.per_node
        return its_own

    def give_back(self, width: Width, taken: Held) -> None:
        """A replica is gone from the slots that :meth:`take` named."""
        self.left += width.slots
        for number, slots in taken.items():
            self.free[number] += width.per_node
            for slot in slots:
                self._held[number][slot] -= 1

    def count(self, width: Width) -> int:
        """So many replicas of a width fit in beside those that are there."""
        if width == ONE:
            return max(0, self.left)
        trial, found = self.copy(), 0
        while trial.fits(width):
            trial.take(width)
            found += 1
        return found

    def _number(self, host: str) -> int | None:
        if host not in self._named and len(self._named) < len(self.free):
            self._named[host] = len(self._named)
        return self._named.get(host)

    def _emptiest(self, number: int) -> tuple[int, int]:
        return -self.free[number], number


def _free(held: Sequence[int], per_gpu: int) -> list[int]:
    """The slots of a node that are free; where several share a GPU, those of each that is free as a whole."""
    if per_gpu == 1:
        return [slot for slot, by in enumerate(held) if not by]
    firsts = range(0, len(held) - per_gpu + 1, per_gpu)
    return [slot for at in firsts if not any(held[at : at + per_gpu]) for slot in range(at, at + per_gpu)]


Load = Mapping[Width, int]
"""How many replicas of each width."""


def packed(load: Load, rooms: Iterable[Room]) -> Counter[Width]:
    """Puts replicas into rooms, the widest first, each into the first that has room for it.

    Returns:
        Those for which there is none.
    """
    left: Counter[Width] = Counter()
    inside = list(rooms)
    for width, wanted in sorted(load.items(), key=lambda each: each[0].turn):
        missing = wanted
        for room in inside:
            if not missing:
                break
            if width == ONE:
                taken = min(missing, max(0, room.left))
                room.left -= taken  # nothing comes after these that would look at the nodes
                missing -= taken
                continue
            while missing and room.fits(width):
                room.take(width)
                missing -= 1
        if missing:
            left[width] = missing
    return left


def slots_of(load: Load) -> int:
    """All slots that so many replicas take."""
    return sum(width.slots * count for width, count in load.items())


def nodes_for(load: Load, nodes: int, node_slots: int) -> int:
    """The fewest nodes of a pilot into which replicas fit, of ``nodes`` that it may have."""
    least = max([-(-slots_of(load) // node_slots), *(width.nodes for width in load)], default=0)
    for few in range(least, nodes):
        if not packed(load, [Room(few * node_slots, node_slots)]):
            return few
    return nodes
