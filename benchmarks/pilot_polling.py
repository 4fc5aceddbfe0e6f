"""The 99th percentile of small requests while slurmctld holds 20,000 jobs of somebody else, and while it does not.

The controller asks once a second, for its own jobs alone. The daemon is an ordinary user's, as at a facility: root's
squeue has slurmctld send it all jobs, whatever it is asked for. Where that user cannot read this Python, as it lies
below /root for instance, root asks after all, and ``asked_by`` says so.

One daemon and one replica serve both sides. What changes between them is slurmctld: it is killed, given its state with
those jobs or its state without, and started. Nothing else is done on the box while requests are measured.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.facility import LOGIN, Box, daemon, status
from benchmarks.machine import undisturbed
from benchmarks.open_loop import percentile
from benchmarks.ratios import summary
from hpcserve.client.sync import Client
from tests.facility.box.host import until
from tests.facility.service import EXAMPLES

SMALL = np.zeros(64, np.float32)
SETTLE_S = 1.5
USER = "daemon"
"""Whose daemon asks. Every Debian has this user."""
AS_USER = ["setpriv", f"--reuid={USER}", "--clear-groups", "env", sys.executable, "-c", "import hpcserve, numpy"]
NOBODY = ["--uid=nobody", "--chdir=/", "--output=/dev/null", "--wrap=true"]


def measure(box: Box, *, pairs: int, jobs: int, seconds: float) -> dict[str, Any]:
    """Measures both sides in turns.

    Args:
        box: It takes that many jobs.
        pairs: So many of each.
        jobs: How many somebody else has.
        seconds: How long each measurement lasts.
    """
    asked_by = USER if box.run(LOGIN, AS_USER, check=False).returncode == 0 else ""
    if not asked_by:
        print(
            f"user {USER} cannot read {sys.executable}: root's polls are measured, not an ordinary user's; "
            "make the virtual environment elsewhere",
            file=sys.stderr,
        )
    with daemon(box, "polling", user=asked_by, scheduler={"poll_s": 1.0}) as (facility, client):
        facility.deploy(client, EXAMPLES / "echo")
        states = States(box)
        states.keep("without", status(client).pilots[0].job)
        crowd = _crowd(box, jobs)
        states.keep("with", crowd)

        listed: dict[str, int] = {}

        def pair(first: str, second: str) -> dict[str, list[float]]:
            found = {}
            for side in (first, second):
                states.take(side)
                listed[side] = _listed(box)
                found[side] = _latencies(client, seconds)
            return found

        orders = [("without", "with"), ("with", "without")] * (pairs // 2) + [("without", "with")] * (pairs % 2)
        found = [undisturbed(partial(pair, *order), tries=2) for order in orders]
        if listed["with"] != listed["without"] + jobs:
            raise RuntimeError(f"slurmctld lists {listed} jobs")
        states.take("with")
        polled_s = [_squeue_s(box) for _ in range(5)]
    p99 = {side: [percentile(each[side], 0.99) * 1000 for each in found] for side in ("without", "with")}
    p50 = {side: [median(each[side]) * 1000 for each in found] for side in ("without", "with")}
    return {
        "asked_by": asked_by or "root",
        "jobs_listed": listed,
        "p99_ratio": summary([w / o for w, o in zip(p99["with"], p99["without"], strict=True)]),
        "p50_ratio": summary([w / o for w, o in zip(p50["with"], p50["without"], strict=True)]),
        "p99_ms": {side: round(median(values), 3) for side, values in p99.items()},
        "p50_ms": {side: round(median(values), 3) for side, values in p50.items()},
        "squeue_s": round(median(polled_s), 3),
    }


class States:
    """What slurmctld has saved, at several moments."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._state = box.directory / "state"
        self._kept = box.directory / "states"
        self._kept.mkdir()

    def keep(self, name: str, job: str) -> None:
        """Keeps what slurmctld knows now, about this job at least."""
        self._box.wait_saved(job)
        self._box.run(LOGIN, ["cp", "-a", f"{self._state}/.", str(self._kept / name)])

    def take(self, name: str) -> None:
        """Lets slurmctld begin anew with what it knew then."""
        self._box.kill_slurmctld()
        script = f"rm -rf {self._state}/* && cp -a {self._kept / name}/. {self._state}"
        self._box.run(LOGIN, ["sh", "-ec", script])
        self._box.start_slurmctld()


def _crowd(box: Box, jobs: int) -> str:
    """Held jobs of somebody else, each with a record of its own; the id of one."""
    array = ["sbatch", "--parsable", "--hold", f"--array=1-{jobs}", *NOBODY]
    job = box.run(LOGIN, array).stdout.strip()
    # A record for each: slurmctld splits off what is changed without the rest.
    box.run(LOGIN, ["scontrol", "update", f"JobId={job}_[1-{jobs - 1}]", "Comment=one"])
    return job


def _listed(box: Box) -> int:
    """How many jobs slurmctld has to tell of, the daemon's own among them."""
    return len(box.run(LOGIN, ["squeue", "--all", "--array", "--noheader", "--format=%i"]).stdout.split())


def _latencies(client: Client, seconds: float) -> list[float]:
    """Latencies of one request after the other, in seconds, when everything has settled."""
    until(lambda: status(client).pilots[0].state == "running", "the controller has polled")
    settled_s = time.perf_counter() + SETTLE_S
    latencies = []
    while (start := time.perf_counter()) < settled_s + seconds:
        client.infer("echo.echo", SMALL)
        if start >= settled_s:
            latencies.append(time.perf_counter() - start)
    return latencies


def _squeue_s(box: Box) -> float:
    start = time.perf_counter()
    box.run(LOGIN, ["squeue", "--me", "--all", "--states=all", "--noheader"])
    return time.perf_counter() - start
