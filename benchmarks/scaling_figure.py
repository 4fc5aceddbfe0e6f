"""Draws the figure of docs/explanation/scaling.md: a simulated day, what comes, what waits, and the nodes for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE, OTHER = "tab:blue", "tab:orange"


def day(found: dict[str, Any]) -> Figure:
    """The first of the simulated days, from the result of ``python -m benchmarks scaling``."""
    from matplotlib.figure import Figure

    series = found["day"]["one_day"]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    came, nodes, queued = figure.subplots(3, 1, sharex=True)
    came.step(series["from_h"], series["came_per_s"], where="post", color=ONE)
    came.set_ylabel("requests/s")
    nodes.step(series["from_h"], series["nodes"], where="post", color=OTHER)
    nodes.set_ylabel("nodes")
    queued.step(series["from_h"], series["queued"], where="post", color=ONE)
    queued.set_ylabel("waiting")
    queued.set_xlabel("hour of the day")
    queued.set_xlim(0, 24)
    queued.set_xticks(range(0, 25, 3))
    return figure
