"""Pilots that are short enough run before what everybody else has to wait for."""

from __future__ import annotations

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, status, until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(300), pytest.mark.usefixtures("all_nodes")]

MAINTENANCE = ["ReservationName=maintenance", "StartTime=now+20minutes", "Duration=60", "Nodes=ALL", "User=root"]


def test_a_short_pilot_runs_before_a_maintenance_that_a_long_one_waits_for(box: Box, new_facility: NewFacility) -> None:
    box.run(LOGIN, ["scontrol", "create", "reservation", *MAINTENANCE, "Flags=MAINT,IGNORE_JOBS"])
    try:
        shapes = {"walltime_s": 7200.0, "min_walltime_s": 600.0}
        facility = new_facility(pilots=shapes).up()
        with facility.client() as client:
            facility.deploy(client, SERVABLES / "spans", replicas=1)
            (pilot,) = status(client).pilots
            limit = box.run(LOGIN, ["squeue", "--noheader", f"--jobs={pilot.job}", "--format=%l"]).stdout.strip()
            assert limit == "10:00"
            assert pilot.walltime_left_s is not None
            assert 0 < pilot.walltime_left_s <= 600
            facility.kill("controller")
            until(lambda: any(each.replicas for each in status(client).pilots), "another controller knows it", 60)
            (again,) = status(client).pilots
            assert (again.pilot, again.slots) == (pilot.pilot, pilot.slots)
    finally:
        box.run(LOGIN, ["scontrol", "delete", "ReservationName=maintenance"])
