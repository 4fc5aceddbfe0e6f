"""Scaling with the demand: what it saves, and what it costs others. Simulated: the numbers depend on no machine.

``day``: a day with bursts, beside pools of a fixed size, see :mod:`benchmarks.scaling_day`. ``rpcs``: what the batch
scheduler is asked, see :mod:`benchmarks.scaling_rpcs`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from benchmarks import scaling_day, scaling_rpcs

WAIT_RATIO, NODE_HOURS_RATIO = 0.5, 0.7


def run(
    *,
    days: int = 20,
    kinds: Sequence[str] = scaling_rpcs.KINDS,
    offsets_s: Sequence[float] = scaling_rpcs.OFFSETS_S,
) -> dict[str, Any]:
    """All parts.

    Args:
        days: So many days are simulated, each from a seed of its own.
        kinds: The ways to Slurm, ``commands`` and ``pyslurm``.
        offsets_s: Outages of Slurm begin so long after a poll or after a pilot was ready, in turns.
    """
    logging.getLogger("hpcserve").setLevel(logging.ERROR)  # that Slurm is away is no news here
    day = scaling_day.measure(days)
    rpcs = scaling_rpcs.run(kinds=kinds, offsets_s=offsets_s)
    targets, reached = scaling_rpcs.targets(), scaling_rpcs.reached(rpcs)
    return {
        "day": day,
        "rpcs": rpcs,
        "targets": {
            "day.wait_ratio_at_equal_node_hours": f"<= {WAIT_RATIO}",
            "day.node_hours_ratio_at_equal_wait": f"<= {NODE_HOURS_RATIO}",
            **{f"rpcs.{name}": told for name, told in targets.items()},
        },
        "reached": {
            "day.wait_ratio_at_equal_node_hours": day["wait_ratio_at_equal_node_hours"]["worst"] <= WAIT_RATIO,
            "day.node_hours_ratio_at_equal_wait": day["node_hours_ratio_at_equal_wait"]["worst"] <= NODE_HOURS_RATIO,
            **{f"rpcs.{name}": is_so for name, is_so in reached.items()},
        },
    }
