"""What it costs others that the daemon scales by itself. Simulated: the numbers depend on no machine.

``rpcs``: what the batch scheduler is asked, see :mod:`benchmarks.scaling_rpcs`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from benchmarks import scaling_rpcs


def run(
    *, kinds: Sequence[str] = scaling_rpcs.KINDS, offsets_s: Sequence[float] = scaling_rpcs.OFFSETS_S
) -> dict[str, Any]:
    """All parts.

    Args:
        kinds: The ways to Slurm, ``commands`` and ``pyslurm``.
        offsets_s: Outages of Slurm begin so long after a poll or after a pilot was ready, in turns.
    """
    logging.getLogger("hpcserve").setLevel(logging.ERROR)  # that Slurm is away is no news here
    rpcs = scaling_rpcs.run(kinds=kinds, offsets_s=offsets_s)
    targets, reached = scaling_rpcs.targets(), scaling_rpcs.reached(rpcs)
    return {
        "rpcs": rpcs,
        "targets": {f"rpcs.{name}": told for name, told in targets.items()},
        "reached": {f"rpcs.{name}": is_so for name, is_so in reached.items()},
    }
