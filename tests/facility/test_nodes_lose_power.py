"""Nodes lose their power: it is noticed in time, no request is lost, and each lost replica has its cause."""

from __future__ import annotations

import time

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.clusters import ON_BOTH, Cluster
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, status, until
from tests.facility.tallied import LONG_S, all_answered, losses, requests, under_way

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

IN_FLIGHT = 200
NOTICED_S = 30.0
"""On a machine that is busy; ``benchmarks pilots`` measures it."""


def nodes_of(box: Box, job: str) -> set[str]:
    names = box.run(LOGIN, ["squeue", "--noheader", f"--jobs={job}", "--format=%N"]).stdout.strip()
    return set(box.run(LOGIN, ["scontrol", "show", "hostnames", names]).stdout.split())


@ON_BOTH
def test_power_loss_of_a_node_with_200_requests_in_flight(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"slots": 1}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally", replicas=2)
        pilot = status(client).pilots[0]
        (replica,) = [each.replica for each in status(client).deployments[0].replicas if each.pilot == pilot.pilot]
        futures = requests(facility, client, endpoint, IN_FLIGHT, 0.2)
        under_way(futures)
        cluster.power_off(pilot)
        off_s = time.monotonic()
        until(lambda: replica not in {each.replica for each in status(client).deployments[0].replicas}, "it is noticed")
        assert time.monotonic() - off_s <= NOTICED_S
        all_answered(futures)
        until(
            lambda: losses(client).get(replica) == "node failed",
            lambda: f"its cause: {losses(client)}",
            LONG_S,
        )
        assert "[this replica was lost: node failed" in facility.cli("logs", replica)
    cluster.power_on()


@ON_BOTH
def test_power_loss_of_all_nodes(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"slots": 1}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally", replicas=2)
        futures = requests(facility, client, endpoint, 60, 0.1)
        under_way(futures)
        cluster.power_off()
        until(lambda: not status(client).deployments[0].replicas, "all are noticed")
        cluster.power_on()
        all_answered(futures)


@pytest.mark.facility
def test_a_lost_node_of_a_pilot_with_two_takes_only_its_own_replicas(box: Box, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"nodes": 2, "slots": 1, "launcher": "srun", "max_pilots": 1}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "tally", replicas=2)
        (pilot,) = status(client).pilots
        replicas = {each.replica: each for each in status(client).deployments[0].replicas}
        futures = requests(facility, client, endpoint, 60, 0.2)
        under_way(futures)
        (other,) = nodes_of(box, pilot.job) - {pilot.host}
        box.power_off(other)
        all_answered(futures)
        (lost,) = until(lambda: losses(client), "the loss has its cause", LONG_S).items()
        assert lost[1] == "node failed"
        (left,) = replicas.keys() - {lost[0]}
        assert left in {each.replica for each in status(client).deployments[0].replicas}
        assert status(client).pilots[0].pilot == pilot.pilot, "it goes on"
    box.power_on(other)
