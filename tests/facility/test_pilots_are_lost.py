"""Whatever Slurm does to pilots, no request is lost, and each lost replica has its cause."""

from __future__ import annotations

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, status, until
from tests.facility.tallied import LONG_S, all_answered, losses, requests, under_way

pytestmark = [pytest.mark.facility, pytest.mark.timeout(300), pytest.mark.usefixtures("all_nodes")]


def test_preemption_requeues_the_same_pilot_as_another_incarnation(box: Box, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"partition": "preempt", "max_pilots": 1}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally")
        (pilot,) = status(client).pilots
        (replica,) = [each.replica for each in status(client).deployments[0].replicas]
        futures = requests(facility, client, endpoint, 60, 0.1)
        under_way(futures)
        urgent = ["sbatch", "--parsable", "--partition=batch", "--nodes=4", "--exclusive", "--output=/dev/null"]
        job = box.run(LOGIN, [*urgent, "--wrap=sleep 600"]).stdout.strip()
        until(lambda: status(client).pilots[0].restarts == 1, "it is requeued", LONG_S)
        until(lambda: losses(client).get(replica) == "preempted", "the loss has its cause")
        log = facility.cli("logs", replica)
        assert f"[pilot {pilot.pilot} printed: " in log
        assert "DUE TO PREEMPTION" in log
        box.run(LOGIN, ["scancel", job])
        all_answered(futures)
        (again,) = status(client).pilots
        assert (again.pilot, again.job, again.restarts) == (pilot.pilot, pilot.job, 1)


def test_a_pilot_that_somebody_cancels_is_replaced(box: Box, new_facility: NewFacility) -> None:
    facility = new_facility().up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally")
        (pilot,) = status(client).pilots
        (replica,) = [each.replica for each in status(client).deployments[0].replicas]
        futures = requests(facility, client, endpoint, 60, 0.1)
        under_way(futures)
        box.run(LOGIN, ["scancel", pilot.job])
        all_answered(futures)
        until(lambda: losses(client).get(replica) == "cancelled", "the loss has its cause")
        until(lambda: pilot.pilot not in {each.pilot for each in status(client).pilots}, "the pilot is gone")
        assert "CANCELLED" in facility.cli("logs", pilot.pilot)


def test_a_suspended_pilot_has_its_work_done_by_another(box: Box, new_facility: NewFacility) -> None:
    facility = new_facility().up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally")
        (pilot,) = status(client).pilots
        futures = requests(facility, client, endpoint, 60, 0.1)
        under_way(futures)
        box.run(LOGIN, ["scontrol", "suspend", pilot.job])
        all_answered(futures)

        def state() -> str:
            return {each.pilot: each.state for each in status(client).pilots}[pilot.pilot]

        until(lambda: state() == "suspended", "Slurm says that it is")
        box.run(LOGIN, ["scontrol", "resume", pilot.job])
        until(lambda: {each.state for each in status(client).pilots} == {"running"}, "it runs again", LONG_S)
        all_answered(requests(facility, client, endpoint, 10, 0.0))
