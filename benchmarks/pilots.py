"""Pilot jobs through a real Slurm: how soon they serve, how they end, and what Slurm's size does to requests.

The Slurm is the box of the facility tests, four nodes on this machine, whose clocks are one. There are no requests
from elsewhere: client, daemon, nodes and Slurm's own daemons share the processors.
"""

from __future__ import annotations

from typing import Any

from benchmarks import pilot_drain, pilot_polling, pilot_power_loss, pilot_start
from tests.facility.box.cluster import Box
from tests.facility.box.machine import lacks
from tests.facility.box.options import Options

NOTICED_S = 10.0
P99_RATIO = 1.5


def run(
    *, starts: int = 8, drain_s: float = 125.0, losses: int = 3, pairs: int = 6, jobs: int = 20_000, side_s: float = 5.0
) -> dict[str, Any]:
    """Measures all four.

    Args:
        starts: So many pilots are started.
        drain_s: How long pilots of a minute follow each other.
        losses: So many nodes lose their power.
        pairs: So many times requests are measured with the other jobs and without.
        jobs: How many others have.
        side_s: How long one measurement of requests lasts.

    Raises:
        SystemExit: This machine cannot hold a box.
    """
    missing = lacks()
    if missing:
        raise SystemExit(f"no real Slurm for benchmark 'pilots': {missing}")
    # Nobody's jobs have no account.
    with Box(Options(enforce="", max_jobs=jobs + 1000)) as box:
        start = pilot_start.measure(box, starts)
        drain = pilot_drain.measure(box, drain_s)
        box.wait_idle()
        power_loss = pilot_power_loss.measure(box, losses)
        box.wait_idle(60)
        polling = pilot_polling.measure(box, pairs=pairs, jobs=jobs, seconds=side_s)
    return {
        "start": start,
        "drain": drain,
        "power_loss": power_loss,
        "polling": polling,
        "targets": {
            "start.more_than_imports_s": "<= 1.5",
            "drain.lost": "0",
            "drain.failed": "0",
            "drain.past_the_end": "0",
            "drain.capacity_gap_s": "0",
            "power_loss.answered": "all",
            "power_loss.worst_noticed_s": "<= 10",
            "polling.p99_ratio": "<= 1.5",
        },
        "reached": {
            "start.more_than_imports_s": start["more_than_imports_s"]["worst"] <= pilot_start.TARGET_S,
            **{f"drain.{name}": drain[name] == 0 for name in ("lost", "failed", "past_the_end", "capacity_gap_s")},
            "power_loss.answered": all(each == power_loss["in_flight"] for each in power_loss["answered"]),
            "power_loss.worst_noticed_s": power_loss["worst_noticed_s"] <= NOTICED_S,
            "polling.p99_ratio": polling["p99_ratio"]["median"] <= P99_RATIO,
        },
    }
