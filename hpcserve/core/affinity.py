"""Which processors each slot of a node computes on: those that are near its GPUs.

Memory and GPUs hang on a NUMA node each, and a processor of another one reaches them by a detour. So the slots whose
GPUs are on a NUMA node share its processors. Where nobody knows where a slot's GPUs are, or it has none, the slots are
spread over the NUMA nodes in their order.

Slots share processors and are not given some of their own: while others have nothing to do, one may use all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

Cpus = frozenset[int]


@dataclass(frozen=True, slots=True)
class Processors:
    """Those of a node that a process may use.

    Attributes:
        by_node: Of each NUMA node, by the kernel's numbers; of some it may have none.
        siblings: The hardware threads of the same core as a processor; a processor that is not there is a core.
    """

    by_node: Mapping[int, Cpus]
    siblings: Mapping[int, Cpus]

    def cores(self, cpus: Cpus) -> int:
        """How many cores these are of."""
        return len({self.siblings.get(cpu, frozenset({cpu})) for cpu in cpus})


@dataclass(frozen=True, slots=True)
class Bound:
    """What a rank is bound to. ``threads``: so many of its own fill its part of the cores."""

    cpus: Cpus
    threads: int


def bound(processors: Processors, near: Sequence[Collection[int]], mine: Collection[int]) -> Bound | None:
    """What a rank computes on; None where that is all that there is.

    Args:
        processors: Those that its process may use.
        near: For each slot of the node, the NUMA nodes of its GPUs; none: not known.
        mine: The slots that the rank holds, from 0. One that is none of those shares that of another.
    """
    by_node = {node: cpus for node, cpus in sorted(processors.by_node.items()) if cpus}
    all_cpus = frozenset().union(*by_node.values())
    of_slots = [
        _near(by_node, nodes) or _spread(list(by_node.values()), slot, len(near)) for slot, nodes in enumerate(near)
    ]
    held = {slot % len(near) for slot in mine}
    cpus = frozenset().union(*(of_slots[slot] for slot in held))
    if cpus == all_cpus:
        return None
    parts = sum(processors.cores(of_slots[slot]) / of_slots.count(of_slots[slot]) for slot in held)
    return Bound(cpus, min(max(1, int(parts)), processors.cores(cpus)))


def _near(by_node: Mapping[int, Cpus], nodes: Collection[int]) -> Cpus:
    """Empty where nothing is known, or none of the processors near them may be used."""
    return frozenset().union(*(by_node.get(node, frozenset()) for node in nodes))


def _spread(cpus: Sequence[Cpus], slot: int, slots: int) -> Cpus:
    """The share of a slot, of as many NUMA nodes as there are."""
    first = slot * len(cpus) // slots
    last = max(first + 1, (slot + 1) * len(cpus) // slots)
    return frozenset().union(*cpus[first:last])
