"""A load that comes in bursts, through everything: scale-up, backfill, drain, another login node, none and back.

Times are short: a pilot of a minute, which is the least that Slurm knows. A maintenance lets longer ones wait.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.options import Options
from tests.facility.conftest import NewFacility
from tests.facility.load import Load, cut_off, runs, twice
from tests.facility.service import SERVABLES, Facility, status, until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

POLL_S = 5.0
SITE = {
    "network": {"host": "switch"},
    "scheduler": {"poll_s": POLL_S, "poll_max_s": 2 * POLL_S},
    "pilots": {"slots": 2, "walltime_s": 240.0, "min_walltime_s": 60.0, "idle_s": 4.0},
    "recovery": {"lease_s": 2.0},
}
MAINTENANCE = ["ReservationName=works", "StartTime=now+4minutes", "Duration=60", "Nodes=ALL", "User=root"]
BURST_S = 65.0
"""Longer than a pilot may run."""
MORE_POLLS = 7
"""A controller begins with one, to find its jobs, and asks once more when an agent comes to it."""
NOT_OURS = {
    "REQUEST_STATS_INFO",
    "REQUEST_DELETE_RESERVATION",
    "REQUEST_COMPLETE_BATCH_SCRIPT",
    "REQUEST_COMPLETE_PROLOG",
    "REQUEST_STEP_COMPLETE",
}
"""What this test asks, and what nodes say of the ends of jobs. The rest is the daemon's, which is the same user."""


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(logins=2)


@pytest.fixture
def maintenance(box: Box) -> Iterator[None]:
    box.run(LOGIN, ["scontrol", "create", "reservation", *MAINTENANCE, "Flags=MAINT,IGNORE_JOBS"])
    yield
    box.run(LOGIN, ["scontrol", "delete", "ReservationName=works"], check=False)


def asked(box: Box) -> dict[str, int]:
    """What the daemon asked slurmctld since that was told to count from none, by the kind of question."""
    told = box.run(LOGIN, ["sdiag"]).stdout.partition("by message type")[2].partition("by user")[0]
    found = re.findall(r"^\s*(REQUEST_\w+)\s+\(.*?\)\s+count:(\d+)", told, re.MULTILINE)
    return {kind: int(count) for kind, count in found if kind not in NOT_OURS}


def take_over(facility: Facility) -> None:
    facility.kill("all")
    facility.up(login="login2")


def burst(load: Load, facility: Facility, for_s: float, in_flight: int, *, moves: bool) -> None:
    """So many requests under way for so long; early in it the daemon is killed, and goes on on the other login node."""
    until_s = time.monotonic() + for_s
    mover = threading.Thread(target=take_over, args=(facility,))
    moved = not moves
    while time.monotonic() < until_s:
        load.top_up(in_flight)
        if not moved and load.seen.answered > in_flight:
            mover.start()
            moved = True
    if moves:
        mover.join()
    while load.outstanding:
        load.top_up(0)


def shapes(box: Box) -> list[str]:
    """The walltimes of all jobs that there were."""
    told = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=Timelimit"]
    return box.run(LOGIN, told).stdout.split()


@pytest.mark.usefixtures("maintenance")
def test_bursts_are_served_and_nothing_is_lost(box: Box, new_facility: NewFacility) -> None:
    box.run(LOGIN, ["sdiag", "--reset"])
    began_s = time.monotonic()
    facility = new_facility(**SITE).up()
    with facility.client() as client:
        facility.cli("publish", str(SERVABLES / "spans"))
        facility.cli("deploy", "spans", "--max-replicas", "6", "--idle-s", "5")
        assert status(client).deployments[0].state == "idle"
        load = Load(facility, client, "spans", 0.5, 1.0, 2.0)
        burst(load, facility, BURST_S, 24, moves=True)
        assert status(client).host == facility.login == "login2"
        until(lambda: not status(client).pilots, "nobody asks, and all nodes are given back", 120)
        (idle,) = status(client).deployments
        assert (idle.state, idle.plan) == ("idle", "no replica, because nobody asked for 5 s")
        assert set(shapes(box)) == {"00:01:00"}, "the long ones would have had to wait"
        box.run(LOGIN, ["scontrol", "delete", "ReservationName=works"])
        facility.kill("controller")  # a guess counts for a minute: this one was told of the works
        burst(load, facility, 3.0, 4, moves=False)
        until(lambda: not status(client).pilots, "and again", 120)
    lasted_s = time.monotonic() - began_s
    assert cut_off(load.log) == set()
    assert twice(load.log) == []
    assert len({replica for _, replica, _ in runs(load.log)["begin"]}) >= 3
    assert shapes(box)[-1] == "00:04:00"
    counts = asked(box)
    submitted = counts["REQUEST_SUBMIT_BATCH_JOB"]
    assert submitted == len(shapes(box)), "none was submitted twice, or for nothing"
    polls, guesses = counts["REQUEST_JOB_INFO"], counts["REQUEST_JOB_WILL_RUN"]
    assert polls <= lasted_s / POLL_S + MORE_POLLS
    assert guesses <= 2 * submitted
    assert counts["REQUEST_KILL_JOB"] <= 2 * submitted
    # squeue asks for the partitions as well, and sbatch --test-only for the federation.
    assert sum(counts.values()) <= 2 * polls + 2 * guesses + submitted + counts["REQUEST_KILL_JOB"], counts
