"""Pilots come to the end of their walltime while their one replica has more to do than it can.

Each pilot is due to end a minute after the start that its job's record has, which is up to a second early. A request
has run past that if its run ends later, or never does because the job was ended. The capacity gap is all the time in
which no replica was ready, from the first one on; the nodes are free, so a successor can always start.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.facility import TIMED, Box, Feed, Watch, answered, daemon, job_start, status

WALLTIME_S = 60.0
OUTSTANDING = 64
RUN_S = 0.05


def measure(box: Box, seconds: float) -> dict[str, Any]:
    """Looks on for so long, from the first replica on."""
    with daemon(box, "drain", pilots={"walltime_s": WALLTIME_S, "slots": 1}) as (facility, client):
        log = facility.home / "runs"
        facility.deploy(client, TIMED)
        with Watch(client) as watch, Feed(client, log, outstanding=OUTSTANDING, sleep_s=RUN_S) as feed:
            time.sleep(seconds)
        feed.wait()
        requeued = status(client).requeued
        dues = {job: job_start(box, job)[1] + WALLTIME_S for job in watch.jobs}
    now_s = time.time()
    done = answered(feed.futures)
    return {
        "pilots_ended": sum(due <= now_s for due in dues.values()),
        "requests": len(feed.futures),
        "lost": sum(not each.done() for each in feed.futures),
        "failed": sum(each.done() for each in feed.futures) - done,
        "past_the_end": _past_the_end(log, dues),
        "requeued": requeued,
        "capacity_gap_s": round(watch.gap_s, 3),
        "longest_pause_s": round(_longest_pause(feed.answered_s), 3),
    }


def _past_the_end(log: Path, dues: dict[str, float]) -> int:
    """Runs that ended after their pilot was due to, or did not end."""
    runs: dict[tuple[str, str], float | None] = {}
    for line in log.read_text().splitlines():
        what, n, job, at_s = line.split()
        runs[n, job] = float(at_s) if what == "ended" else None
    return sum(ended_s is None or ended_s > dues[job] for (_, job), ended_s in runs.items())


def _longest_pause(times: Iterable[float]) -> float:
    ordered = sorted(times)
    return max((after - before for before, after in pairwise(ordered)), default=0.0)
