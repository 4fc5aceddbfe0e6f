"""Pilots reach the end of their walltime under full load: no request is lost or cut off."""

from __future__ import annotations

import pytest

from tests.facility.clusters import ON_BOTH, Cluster
from tests.facility.conftest import NewFacility
from tests.facility.load import Load, handed_over, none_ran_past_its_pilot
from tests.facility.service import SERVABLES, status

pytestmark = [ON_BOTH, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

IN_FLIGHT = 64
GENERATION = 0.75
"""That part of its walltime a pilot serves alone."""


def test_pilots_hand_over_under_full_load(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"walltime_s": cluster.walltime_s, "slots": 2, "max_pilots": 2}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spans", replicas=3)
        load = Load(facility, client, endpoint, 0.2, 0.4, 1.0)
        seen = load.keep(IN_FLIGHT, 1.6 * GENERATION * cluster.walltime_s)
        assert len(set(seen.jobs.values())) >= 4
        assert handed_over(cluster, seen) >= 3
        assert status(client).losses == ()
        assert none_ran_past_its_pilot(cluster, load, seen) >= 2
