"""Whatever the scheduler does to pilots, no request is lost, and each lost replica has its cause."""

from __future__ import annotations

import pytest

from tests.facility.clusters import ON_BOTH, Cluster
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, status, until
from tests.facility.tallied import LONG_S, all_answered, losses, requests, under_way

pytestmark = [ON_BOTH, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]


def test_preemption_requeues_the_same_pilot_as_another_incarnation(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={**cluster.preemptible, "max_pilots": 1}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally")
        (pilot,) = status(client).pilots
        (replica,) = [each.replica for each in status(client).deployments[0].replicas]
        futures = requests(facility, client, endpoint, 60, 0.1)
        under_way(futures)
        with cluster.preempted_by_another(pilot.job):
            until(lambda: status(client).pilots[0].restarts == 1, "it is requeued", LONG_S)
            kind, printed = cluster.preempted
            until(lambda: losses(client).get(replica) == kind, lambda: f"the loss has its cause: {losses(client)}")
            log = facility.cli("logs", replica)
            assert f"[pilot {pilot.pilot} printed: " in log or not printed
            assert printed in log
        all_answered(futures)
        (again,) = status(client).pilots
        assert (again.pilot, again.job, again.restarts) == (pilot.pilot, pilot.job, 1)


def test_a_pilot_that_somebody_cancels_is_replaced(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility().up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally")
        (pilot,) = status(client).pilots
        (replica,) = [each.replica for each in status(client).deployments[0].replicas]
        futures = requests(facility, client, endpoint, 60, 0.1)
        under_way(futures)
        cluster.cancel(pilot.job)
        all_answered(futures)
        until(lambda: losses(client).get(replica) == "cancelled", "the loss has its cause")
        assert [each.drained for each in status(client).losses] == [True], "it had the time to finish what it ran"
        until(lambda: pilot.pilot not in {each.pilot for each in status(client).pilots}, "the pilot is gone")
        assert cluster.cancelled in facility.cli("logs", pilot.pilot)


def test_a_suspended_pilot_has_its_work_done_by_another(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility().up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally")
        (pilot,) = status(client).pilots
        futures = requests(facility, client, endpoint, 60, 0.1)
        under_way(futures)
        cluster.suspend(pilot.job)
        all_answered(futures)

        def state() -> str:
            return {each.pilot: each.state for each in status(client).pilots}[pilot.pilot]

        until(lambda: state() == "suspended", "the scheduler says that it is")
        cluster.resume(pilot.job)
        until(lambda: {each.state for each in status(client).pilots} == {"running"}, "it runs again", LONG_S)
        all_answered(requests(facility, client, endpoint, 10, 0.0))
