"""How much room a replica takes: so many slots on each of so many nodes.

A rank that needs no GPU, or a part of one, takes one slot. Where several slots share a GPU, one that is given whole
GPUs takes all the slots of each. Which nodes and which of their slots a replica gets, its pilot's agent decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hpcserve.core.spans import counted

if TYPE_CHECKING:
    from hpcserve.core.fleetview import Policy


class Ranks(NamedTuple):
    """The MPI ranks of a replica, as its servable's manifest says; ``nodes`` divides ``size``."""

    size: int = 1
    nodes: int = 1
    gpus_per_rank: int = 0


class Width(NamedTuple):
    """The room of one replica: ``per_node`` slots on each of ``nodes`` nodes of one pilot.

    ``per_gpu``: it takes whole GPUs, each of which so many slots share; 1: any slots will do.
    """

    nodes: int = 1
    per_node: int = 1
    per_gpu: int = 1

    @property
    def slots(self) -> int:
        """All that it takes."""
        return self.nodes * self.per_node

    @property
    def turn(self) -> tuple[int, int, int]:
        """The widest come first where replicas are packed; of as wide ones those on fewer nodes, and on whole GPUs."""
        return -self.slots, self.nodes, -self.per_gpu


ONE = Width()
"""A replica of one rank: it fits wherever any slot is free."""


def slots_per_rank(gpus_per_rank: int, replicas_per_gpu: int) -> int:
    """How many slots of its node one rank takes."""
    return max(1, gpus_per_rank * replicas_per_gpu)


def width_of(ranks: Ranks, replicas_per_gpu: int) -> Width:
    """The room that a replica of these ranks takes."""
    per_node = ranks.size // ranks.nodes * slots_per_rank(ranks.gpus_per_rank, replicas_per_gpu)
    return Width(ranks.nodes, per_node, replicas_per_gpu if ranks.gpus_per_rank else 1)


def width(ranks: Ranks, replicas_per_gpu: int) -> int:
    """The slots of a whole replica."""
    return width_of(ranks, replicas_per_gpu).slots


def misfit(ranks: Ranks, policy: Policy) -> str:
    """Why a replica of these ranks would not fit into a pilot that holds no other; empty if it would."""
    by_directive = policy.gpus_by_directive and not policy.gpus_per_node  # nobody knows how many
    if ranks.gpus_per_rank and not by_directive and policy.node_slots != policy.gpus_per_node * policy.replicas_per_gpu:
        return (
            f"ranks.gpus_per_rank {ranks.gpus_per_rank} gives each rank whole GPUs, for which pilots.slots of the site "
            f"file has to be gpus_per_node × replicas_per_gpu: it is {policy.node_slots}, and they are "
            f"{policy.gpus_per_node} and {policy.replicas_per_gpu}; correct the site file, or set gpus_per_rank = 0"
        )
    if ranks.nodes > policy.nodes:
        return (
            f"ranks.nodes {ranks.nodes}: a pilot has pilots.nodes {policy.nodes}, and a replica is in one pilot; "
            "raise that in the site file, or use fewer nodes"
        )
    wide = width_of(ranks, policy.replicas_per_gpu)
    if wide.per_node > policy.node_slots:
        gpus = f", each with {counted(ranks.gpus_per_rank, 'GPU')}," if ranks.gpus_per_rank else ""
        return (
            f"ranks.size {ranks.size}{gpus} on {counted(ranks.nodes, 'node')} takes {counted(wide.per_node, 'slot')} "
            f"of each, and a node has pilots.slots {policy.node_slots}: use fewer ranks, more ranks.nodes, or raise "
            "pilots.slots in the site file"
        )
    return ""
