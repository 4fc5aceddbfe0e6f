"""Scaling with the demand: what it saves and spares, in a simulated day."""

from __future__ import annotations

from typing import Any

from benchmarks import scaling_day

WAIT_RATIO, NODE_HOURS_RATIO = 0.5, 0.7


def run(*, days: int = 20) -> dict[str, Any]:
    """Measures everything.

    Args:
        days: So many days are simulated, each from a seed of its own.
    """
    day = scaling_day.measure(days)
    return {
        "day": day,
        "targets": {
            "day.wait_ratio_at_equal_node_hours": f"<= {WAIT_RATIO}",
            "day.node_hours_ratio_at_equal_wait": f"<= {NODE_HOURS_RATIO}",
        },
        "reached": {
            "day.wait_ratio_at_equal_node_hours": day["wait_ratio_at_equal_node_hours"]["worst"] <= WAIT_RATIO,
            "day.node_hours_ratio_at_equal_wait": day["node_hours_ratio_at_equal_wait"]["worst"] <= NODE_HOURS_RATIO,
        },
    }
