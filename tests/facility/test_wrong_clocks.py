"""Nodes with clocks of their own, and jobs whose first process comes late: pilots drain before Slurm ends them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.conftest import NewFacility
from tests.facility.load import Load, Seen, cut_off, runs, twice
from tests.facility.service import SERVABLES, Facility, status, until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

SKEW_S = 300
SKEWS_S = {"node1": SKEW_S, "node2": -SKEW_S, "node3": SKEW_S, "node4": -SKEW_S}
NEAR_S = 90.0
"""A clock that is right differs by less, whatever the machine has to do meanwhile; one that is wrong does not."""
WALLTIME_S = 30.0
SLURMS_WALLTIME_S = 60.0
ROUNDED_S = 1.0
"""Slurm's accounting has whole seconds."""
LATE_S = 12.0
WARN_S = 10.0


@pytest.fixture(autouse=True)
def _all_nodes(box: Box) -> Iterator[None]:
    yield
    box.run(LOGIN, ["scancel", "--user=root"])
    box.delay_jobs(0)
    for node in SKEWS_S:
        box.skew_clock(node, 0)
    box.wait_idle(60)


def clock_of(box: Box) -> str:
    """A command of a job script by which all that the job starts has its node's clock, the agent too."""
    return f"clock={box.directory}/clock/$SLURMD_NODENAME; if [ -e $clock ]; then . $clock; fi"


def lasted_s(box: Box, job: str) -> tuple[str, float]:
    """How a job ended, and after how long, as Slurm says; waits for accounting."""
    asked = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=State,ElapsedRaw,End"]

    def told() -> list[str]:
        fields = box.run(LOGIN, asked).stdout.strip().split("|")
        return fields if fields[-1] not in ("", "Unknown") else []

    state, elapsed_s, _ = until(told, f"job {job} has ended")
    return state, float(elapsed_s)


def hosts(facility: Facility, load: Load, seen: Seen) -> dict[str, str]:
    """The node of each replica that ran requests; waits for accounting."""
    asked = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,NodeList"]
    ran = {replica for _, replica, _ in runs(load.log)["begin"]}

    def told() -> dict[str, str]:
        nodes = dict(line.split("|") for line in facility.cluster.run(LOGIN, asked).stdout.splitlines())
        found = {replica: nodes.get(job, "") for replica, job in seen.jobs.items() if replica in ran}
        return found if set(found.values()) <= SKEWS_S.keys() else {}

    return until(told, "accounting knows where they ran")


def agents_clock_s(log: Path) -> float:
    """What an agent took for the time of day when it wrote its first line."""
    first = next(line for line in log.read_text().splitlines() if line[:2] == "20")
    return datetime.strptime(" ".join(first.split()[:2]), "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()


def nothing_was_lost(facility: Facility, load: Load) -> None:
    with facility.client() as client:
        assert status(client).losses == ()
    assert (twice(load.log), cut_off(load.log)) == ([], set())


def test_clocks_that_are_wrong_by_five_minutes_both_ways(box: Box, new_facility: NewFacility) -> None:
    for node, seconds in SKEWS_S.items():
        box.skew_clock(node, seconds)
    pilots = {"walltime_s": WALLTIME_S, "slots": 1, "max_pilots": 2, "exclusive": True, "setup": [clock_of(box)]}
    facility = new_facility(pilots=pilots).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spans", replicas=2)
        first = {pilot.pilot: pilot for pilot in status(client).pilots}
        assert {SKEWS_S[pilot.host] for pilot in first.values()} == {SKEW_S, -SKEW_S}
        for pilot in first.values():
            wrong_s = agents_clock_s(facility.logs / f"{pilot.pilot}.log") - time.time()
            assert wrong_s == pytest.approx(SKEWS_S[pilot.host], abs=NEAR_S), "the agent's clock is off"
        load = Load(facility, client, endpoint, 0.2, 0.5)
        began_s = time.time()
        while first.keys() & {pilot.pilot for pilot in status(client).pilots}:
            assert time.time() - began_s <= 2 * WALLTIME_S, "pilots end by their own clocks"
            load.keep(16, 1.0)
        seen = load.keep(16, 1.0)
        ended_s = time.time()
    nodes = hosts(facility, load, seen)
    assert {SKEWS_S[node] for node in nodes.values()} == {SKEW_S, -SKEW_S}
    for _, replica, at_s in runs(load.log)["begin"]:
        true_s = at_s - SKEWS_S[nodes[replica]]
        assert began_s - NEAR_S <= true_s <= ended_s + NEAR_S, "so is the servable's"
    nothing_was_lost(facility, load)
    for pilot in first.values():
        state, after_s = lasted_s(box, pilot.job)
        assert state != "TIMEOUT"
        assert WALLTIME_S / 2 - ROUNDED_S <= after_s <= WALLTIME_S + ROUNDED_S


def test_an_agent_that_came_late_heeds_slurms_warning(box: Box, new_facility: NewFacility) -> None:
    """By its own clock there are twelve seconds more, longer than its margin; and no successor can take over."""
    others = ["sbatch", "--parsable", "--nodes=3", "--exclusive", "--output=/dev/null", "--time=10"]
    other = box.run(LOGIN, [*others, "--wrap=sleep 600"]).stdout.strip()
    box.delay_jobs(LATE_S)
    pilots = {"walltime_s": SLURMS_WALLTIME_S, "max_pilots": 1, "warn_s": WARN_S, "exclusive": True}
    facility = new_facility(pilots=pilots).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spans")
        box.delay_jobs(0)
        (pilot,) = status(client).pilots
        load = Load(facility, client, endpoint, 0.2, 0.5)
        while pilot.pilot in {each.pilot for each in status(client).pilots}:
            load.top_up(8)
        state, after_s = lasted_s(box, pilot.job)
        assert state != "TIMEOUT"
        assert LATE_S <= after_s <= SLURMS_WALLTIME_S + ROUNDED_S
        box.run(LOGIN, ["scancel", other])
        assert load.keep(8, 1.0).answered
    nothing_was_lost(facility, load)
