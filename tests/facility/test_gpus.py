"""Replicas of one pilot share its GPUs out among themselves."""

from __future__ import annotations

import numpy as np
import pytest

from tests.facility.box.options import Options
from tests.facility.clusters import ON_BOTH, Cluster
from tests.facility.conftest import NewFacility
from tests.facility.service import PATIENCE_S, SERVABLES, until

pytestmark = [pytest.mark.timeout(600)]

SLEEP_S = 0.2


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(nodes=2)


@pytest.mark.facility
@pytest.mark.parametrize(
    ("pilots", "expected"),
    [
        ({"slots": 2}, ["0", "1"]),
        ({"slots": 4}, ["0", "0", "1", "1"]),
        ({"slots": 3}, ["0,1", "0,1"]),
    ],
    ids=["as many", "several on each", "not to be divided"],
)
def test_each_replica_sees_its_share_of_the_gpus(
    cluster: Cluster, new_facility: NewFacility, pilots: dict[str, object], expected: list[str]
) -> None:
    assert shares({**cluster.with_gpus, **pilots}, new_facility, len(expected)) == expected


@ON_BOTH
def test_so_it_does_when_another_launcher_starts_it(cluster: Cluster, new_facility: NewFacility) -> None:
    nodes = int(cluster.launcher.get("nodes", 1))
    expected = sorted(["0", "1"] * nodes)
    assert shares({**cluster.with_gpus, **cluster.launcher, "slots": 2}, new_facility, len(expected)) == expected


def shares(pilots: dict[str, object], new_facility: NewFacility, replicas: int) -> list[str]:
    """What each replica of one pilot saw named."""
    facility = new_facility(pilots={"max_pilots": 1, **pilots}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "devices", replicas=replicas)
        seen: dict[str, str] = {}

        def all_told() -> bool:
            parameters = {"sleep_s": SLEEP_S}
            asked = [client.submit(f"{endpoint}.run", np.int64(n), parameters=parameters) for n in range(16)]
            for each in asked:
                answer = each.result(PATIENCE_S)
                seen[answer.replica] = answer["seen"]
            return len(seen) == replicas

        until(all_told, "each replica has answered")
    return sorted(seen.values())
