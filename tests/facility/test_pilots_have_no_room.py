"""A pilot for which there is no room yet is no failure: it is submitted again, and what runs serves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.facility.clusters import ON_BOTH, Cluster, Commands
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, Facility, status, until

pytestmark = [ON_BOTH, pytest.mark.timeout(600)]

TOO_LATE = 6


@pytest.fixture(autouse=True)
def _no_jobs(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.clear()


def test_a_queue_without_room_is_waited_for(cluster: Cluster, new_facility: NewFacility, commands: Commands) -> None:
    facility = new_facility(pilots=cluster.narrow).up(commands.variables)
    with cluster.full(others=1):
        said = waits_for_room(facility, cluster, replicas=1)
        for text in (cluster.no_room, "it will be submitted again when "):
            assert text in said
            assert text in facility.told()
        assert 1 <= commands.submissions() <= 10, "not at each look"
    with facility.client() as client:
        facility.wait_ready(client, "tally")
        assert not status(client).deployments[0].error
    assert len(facility.jobs()) == 1


def test_the_second_pilot_of_a_queue_that_allows_one_is_waited_for(
    cluster: Cluster, new_facility: NewFacility, commands: Commands
) -> None:
    facility = new_facility(pilots={**cluster.narrow, "slots": 1}).up(commands.variables)
    with cluster.full(others=0), facility.client() as client:
        waits_for_room(facility, cluster, replicas=2)
        facility.wait_ready(client, "tally")
        (served,) = status(client).deployments
        assert [each.state for each in served.replicas] == ["ready"], "one serves meanwhile"
        assert served.state == "starting", "the other is no failure"
        asked = commands.submissions()
        until(lambda: commands.submissions() > asked, "it is tried again")


def waits_for_room(facility: Facility, cluster: Cluster, *, replicas: int) -> str:
    """What ``hpcserve deploy`` says that gave up waiting, when a refusal was known."""
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=1, replicas=replicas)
    assert (code, "still starting" in said) == (TOO_LATE, True)
    until(lambda: cluster.no_room in facility.told(), "there is no room")
    done = facility.command("deploy", "tally", "--timeout=1", f"--replicas={replicas}")
    assert done.returncode == TOO_LATE
    return " ".join((done.stdout + done.stderr).split())
