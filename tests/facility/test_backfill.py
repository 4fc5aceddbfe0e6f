"""Pilots that are short enough run before what everybody else has to wait for."""

from __future__ import annotations

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, status, until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

MAINTENANCE = ["ReservationName=maintenance", "StartTime=now+20minutes", "Duration=60", "Nodes=ALL", "User=root"]


def test_a_short_and_small_pilot_runs_before_a_maintenance_that_a_long_one_waits_for(
    box: Box, new_facility: NewFacility
) -> None:
    box.run(LOGIN, ["scontrol", "create", "reservation", *MAINTENANCE, "Flags=MAINT,IGNORE_JOBS"])
    try:
        shapes = {"walltime_s": 7200.0, "min_walltime_s": 600.0, "nodes": 2, "min_nodes": 1, "slots": 1}
        facility = new_facility(pilots={**shapes, "launcher": "srun", "max_pilots": 1}).up()
        with facility.client() as client:
            facility.deploy(client, SERVABLES / "spans", replicas=1)
            (pilot,) = status(client).pilots
            assert _limit_and_nodes(box, pilot.job) == ["10:00", "1"]
            assert pilot.slots == 1
            assert pilot.walltime_left_s is not None
            assert 0 < pilot.walltime_left_s <= 600
            facility.kill("controller")
            until(lambda: any(each.replicas for each in status(client).pilots), "another controller knows it", 60)
            (again,) = status(client).pilots
            assert (again.pilot, again.slots) == (pilot.pilot, pilot.slots)

            # What is wanted has outgrown the small one: a full one comes in its place, and takes its replica over.
            facility.deploy(client, SERVABLES / "spans", replicas=2)
            until(lambda: [each.slots for each in status(client).pilots] == [2], "the small one has ended", 60)
            (full,) = status(client).pilots
            assert full.replicas == 2
            assert _limit_and_nodes(box, full.job) == ["10:00", "2"]
    finally:
        box.run(LOGIN, ["scontrol", "delete", "ReservationName=maintenance"])


def _limit_and_nodes(box: Box, job: str) -> list[str]:
    return box.run(LOGIN, ["squeue", "--noheader", f"--jobs={job}", "--format=%l %D"]).stdout.split()
