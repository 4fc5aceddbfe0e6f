"""A daemon that goes down and keeps its pilots: the next one finds them all, and nothing is submitted twice."""

from __future__ import annotations

import numpy as np
import pytest

from hpcserve import Client
from tests.facility.clusters import ON_BOTH, RUNNING
from tests.facility.conftest import NewFacility
from tests.facility.service import EXAMPLES, Facility, deployment, status, until

pytestmark = [ON_BOTH, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

X = np.arange(3, dtype=np.float32)


def accounted(facility: Facility) -> dict[str, str]:
    """All jobs of pilots that there ever were, by their names; of one name there is never a second one."""
    found = facility.cluster.ever()
    assert len(dict(found)) == len(found), f"submitted twice: {found}"
    return dict(found)


def pids(client: Client, endpoint: str) -> set[int | None]:
    return {each.pid for each in deployment(client, endpoint).replicas if each.state == "ready"}


def test_the_next_daemon_has_the_same_jobs_and_the_same_processes(new_facility: NewFacility) -> None:
    facility = new_facility(pilots={"slots": 1}).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, EXAMPLES / "echo", replicas=2)
        jobs = {each.pilot: each.job for each in status(client).pilots}
        before = pids(client, endpoint)
        assert len(jobs) == len(before) == 2
        until(lambda: set(jobs.values()) <= set(accounted(facility).values()), "accounting knows them")
        ever = accounted(facility)
        said = facility.cli("down", "--pilots", "keep")
        assert all(f"{pilot}, job {job}, goes on" in said for pilot, job in jobs.items())
        assert set(facility.jobs().values()) == {RUNNING}
        facility.up()
        until(lambda: pids(client, endpoint) == before, "the same processes are ready")
        np.testing.assert_array_equal(client.infer(f"{endpoint}.echo", X)["x"], X)
        until(lambda: {each.state for each in status(client).pilots} == {"running"}, "the scheduler has told of them")
        assert {each.pilot: each.job for each in status(client).pilots} == jobs
        assert facility.jobs().keys() == set(jobs.values())
        assert not status(client).losses
        assert accounted(facility) == ever
