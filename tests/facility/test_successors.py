"""One pilot alone reaches the end of its walltime: with a successor nothing waits, without one nothing is lost."""

from __future__ import annotations

import pytest

from tests.facility.clusters import ON_BOTH, Cluster
from tests.facility.conftest import NewFacility
from tests.facility.load import Load, cut_off, handed_over, none_ran_past_its_pilot, twice
from tests.facility.service import SERVABLES, status, until

pytestmark = [ON_BOTH, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

SHORT_S = 30.0
MORE = 70
"""Requests of half a second: more than one of these short pilots can run."""
GENERATION = 0.75
"""That part of its walltime a pilot serves alone."""


def test_one_pilot_alone_hands_over_to_its_successor(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"walltime_s": cluster.walltime_s, "max_pilots": 1}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spans", replicas=1)
        load = Load(facility, client, endpoint, 0.2, 0.4, 1.0)
        seen = load.keep(8, 1.2 * GENERATION * cluster.walltime_s)
        assert len(set(seen.jobs.values())) >= 2
        assert handed_over(cluster, seen) >= 1
        assert status(client).losses == ()
        assert none_ran_past_its_pilot(cluster, load, seen) >= 1


def test_without_a_successor_requests_wait_for_the_next_pilot(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"walltime_s": SHORT_S, "max_pilots": 1, "exclusive": True}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spans", replicas=1)
        (pilot,) = status(client).pilots
        load = Load(facility, client, endpoint, 0.5)
        with cluster.without_room_beside(pilot):
            for _ in range(MORE):
                load.send()
            until(lambda: pilot.pilot not in {each.pilot for each in status(client).pilots}, "the first one ends", 90.0)
            until(lambda: [each.state for each in status(client).pilots] == ["queued"], "the second one waits")
            assert status(client).deployments[0].queued > 0
            until(lambda: "queued" in status(client).deployments[0].error, "it says so")
        seen = load.keep(0, 0.0)
        assert seen.answered == MORE
        assert status(client).losses == ()
        assert cut_off(load.log) == set()
        assert twice(load.log) == []
