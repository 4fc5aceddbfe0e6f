"""Replicas of one pilot share its GPUs out among themselves."""

from __future__ import annotations

import numpy as np
import pytest

from tests.facility.box.options import Options
from tests.facility.conftest import NewFacility
from tests.facility.service import PATIENCE_S, SERVABLES, until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

SLEEP_S = 0.2


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(nodes=2)


@pytest.mark.parametrize(
    ("pilots", "expected"),
    [
        ({"slots": 2}, ["0", "1"]),
        ({"slots": 2, "launcher": "srun", "nodes": 2}, ["0", "0", "1", "1"]),
        ({"slots": 4}, ["0", "0", "1", "1"]),
        ({"slots": 3}, ["0,1", "0,1"]),
    ],
    ids=["process", "srun", "several on each", "not to be divided"],
)
def test_each_replica_sees_its_share_of_the_gpus(
    new_facility: NewFacility, pilots: dict[str, object], expected: list[str]
) -> None:
    facility = new_facility(pilots={"partition": "gpu", "gpus_per_node": 2, "max_pilots": 1, **pilots}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "devices", replicas=len(expected))
        seen: dict[str, str] = {}

        def all_told() -> bool:
            parameters = {"sleep_s": SLEEP_S}
            asked = [client.submit(f"{endpoint}.run", np.int64(n), parameters=parameters) for n in range(16)]
            for each in asked:
                answer = each.result(PATIENCE_S)
                seen[answer.replica] = answer["seen"]
            return len(seen) == len(expected)

        until(all_told, "each replica has answered")
        assert sorted(seen.values()) == expected
