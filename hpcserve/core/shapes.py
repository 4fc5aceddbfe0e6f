"""Which shape a pilot is submitted in: how many nodes, for how long.

A batch scheduler fills the gaps before its large jobs with small and short ones (*backfill*): one of half the nodes,
for a quarter of the time, may start hours before one that asks for all that the site allows. Which one does, only the
scheduler can tell. It is asked for the full shape first; if that starts soon, or nobody can say when, it is taken.
Otherwise a few others are asked about, and that one is taken which gives most: the most seconds of slots that are
needed, within a horizon from now. What is to be done after its end, its successor does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

SOON_S = 60.0
"""What starts so soon is not worth another question."""
HORIZON_S = 3600.0
"""What a pilot gives within so long counts: the demand is there now."""
BETTER = 1.5
"""Another shape has to give so many times what the full one does: guesses are rough, and more jobs a burden."""


@dataclass(frozen=True, order=True)
class Shape:
    """Of one pilot job: ``nodes``, for ``walltime_s``."""

    nodes: int
    walltime_s: float


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """``full``: the shape that is wanted. None may be smaller than ``min_nodes``, or shorter than ``min_walltime_s``.

    ``slots``: those of a node.
    """

    full: Shape
    min_nodes: int
    min_walltime_s: float
    slots: int


def fitted(bounds: Bounds, lacking: int, nodes: int = 1) -> Shape:
    """The full shape without the nodes for which there is no replica.

    Args:
        bounds: What is allowed.
        lacking: Replicas of so many slots have no room.
        nodes: So many of these replicas need, as no slot of a replica may be on another node than it has to be.
    """
    nodes = max(bounds.min_nodes, nodes, math.ceil(lacking / bounds.slots))
    return Shape(min(bounds.full.nodes, nodes), bounds.full.walltime_s)


def others(bounds: Bounds, wanted: Shape) -> tuple[Shape, ...]:
    """What to ask about beside the wanted shape: half and least nodes, a quarter and the least of the time."""
    few = max(bounds.min_nodes, wanted.nodes // 2)
    short_s = max(bounds.min_walltime_s, wanted.walltime_s / 4)
    found = (
        Shape(wanted.nodes, short_s),
        Shape(few, short_s),
        Shape(few, bounds.min_walltime_s),
        Shape(bounds.min_nodes, bounds.min_walltime_s),
    )
    return tuple(dict.fromkeys(shape for shape in found if shape != wanted))


def best(bounds: Bounds, wanted: Shape, starts_in_s: Mapping[Shape, float | None], lacking: int) -> Shape:
    """The shape to submit.

    Args:
        bounds: What is allowed.
        wanted: The shape that is taken unless another gives much more.
        starts_in_s: When each that was asked about would start, if the scheduler can say.
        lacking: Replicas of so many slots have no room.
    """
    given = {
        shape: _gives(shape, starts_s, lacking, bounds.slots)
        for shape, starts_s in starts_in_s.items()
        if starts_s is not None and math.isfinite(starts_s)
    }
    if wanted not in given:
        return wanted
    # Of those that give the same the larger one: it has its successor later.
    found = max(given, key=lambda shape: (given[shape], shape))
    return found if given[found] >= BETTER * given[wanted] else wanted


def _gives(shape: Shape, starts_s: float, lacking: int, slots: int) -> float:
    """The seconds of needed slots that it gives within the horizon."""
    needed = min(shape.nodes * slots, max(1, lacking))
    return needed * max(0.0, min(shape.walltime_s, HORIZON_S - max(0.0, starts_s)))
