"""Scaling with the demand: what it saves, what it costs others, how soon it answers, and a daemon that moves.

Simulated: ``day``, with bursts, beside pools of a fixed size (:mod:`benchmarks.scaling_day`), and ``rpcs``, what the
batch scheduler is asked in hours and outages (:mod:`benchmarks.scaling_rpcs`). On the Slurm of the facility tests:
``zero``, from a request at zero replicas to its answer (:mod:`benchmarks.scaling_zero`), and ``move``, a daemon that
goes on on another login node (:mod:`benchmarks.scaling_move`).
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
    longer_s: Sequence[float] = scaling_day.LONGER_MEDIANS_S,
    kinds: Sequence[str] = scaling_rpcs.KINDS,
    offsets_s: Sequence[float] = scaling_rpcs.OFFSETS_S,
    starts: int = 8,
    moves: int = 3,
) -> dict[str, Any]:
    """All parts.

    Args:
        days: So many days are simulated, each from a seed of its own.
        longer_s: Each again, with these median waits in the queue.
        kinds: The ways to Slurm whose questions are counted: ``commands``, ``pyslurm``.
        offsets_s: Outages of Slurm begin so long after a poll or after a pilot was ready, in turns.
        starts: So many times a request finds no replica; 0: this is left out, as it needs a box.
        moves: So many times a daemon moves in each way; 0: as above.

    Raises:
        SystemExit: This machine cannot hold a box.
    """
    logging.getLogger("hpcserve").setLevel(logging.ERROR)  # that Slurm is away is no news here
    on_a_box = _on_a_box(starts, moves) if starts and moves else {}
    day = scaling_day.measure(days, longer_s)
    rpcs = scaling_rpcs.run(kinds=kinds, offsets_s=offsets_s)
    found: dict[str, Any] = {"day": day, "rpcs": rpcs, **on_a_box}
    targets = {
        "day.wait_ratio_at_equal_node_hours": f"<= {WAIT_RATIO}",
        "day.node_hours_ratio_at_equal_wait": f"<= {NODE_HOURS_RATIO}",
        **{f"rpcs.{name}": told for name, told in scaling_rpcs.targets().items()},
    }
    reached = {
        "day.wait_ratio_at_equal_node_hours": day["wait_ratio_at_equal_node_hours"]["worst"] <= WAIT_RATIO,
        "day.node_hours_ratio_at_equal_wait": day["node_hours_ratio_at_equal_wait"]["worst"] <= NODE_HOURS_RATIO,
        **{f"rpcs.{name}": is_so for name, is_so in scaling_rpcs.reached(rpcs).items()},
    }
    if on_a_box:
        from benchmarks import scaling_move, scaling_zero

        targets |= {"zero.ratio": f"<= {scaling_zero.RATIO:g}"}
        reached |= {"zero.ratio": found["zero"]["ratio"]["median"] <= scaling_zero.RATIO}
        targets |= {f"move.{name}": told for name, told in scaling_move.targets().items()}
        reached |= {f"move.{name}": is_so for name, is_so in scaling_move.reached(found["move"]).items()}
    return {**found, "targets": targets, "reached": reached}


def _on_a_box(starts: int, moves: int) -> dict[str, Any]:
    """The parts that need the cluster of the tests, and packages that the others do without."""
    from benchmarks import scaling_move, scaling_zero
    from tests.facility.box.cluster import Box
    from tests.facility.box.machine import lacks

    missing = lacks()
    if missing:
        raise SystemExit(f"no real Slurm for benchmark 'scaling': {missing}")
    with Box(scaling_zero.OPTIONS) as box:
        zero = scaling_zero.measure(box, starts)
    return {"zero": zero, "move": scaling_move.run(moves=moves)}
