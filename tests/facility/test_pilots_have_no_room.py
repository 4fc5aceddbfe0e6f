"""A pilot for which Slurm has no room yet is no failure: it is submitted again, and what runs serves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.options import TINY_QOS
from tests.facility.commands import Commands
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, status, until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(150)]

TOO_LATE = 6


@pytest.fixture(autouse=True)
def _no_jobs(box: Box) -> Iterator[None]:
    yield
    box.run(LOGIN, ["scancel", "--user=root"])


def test_a_qos_without_room_is_waited_for(box: Box, new_facility: NewFacility, commands: Commands) -> None:
    facility = new_facility(pilots={"qos": TINY_QOS}).up(commands.variables)
    other = ["sbatch", "--parsable", f"--qos={TINY_QOS}", "--output=/dev/null", "--wrap=sleep 600"]
    job = box.run(LOGIN, other).stdout.strip()
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=5)
    assert code == TOO_LATE
    assert "still starting" in said
    for text in ("QOSMaxSubmitJobPerUserLimit", "it will be submitted again when others have ended"):
        assert text in said
        assert text in facility.told()
    assert 1 <= len(commands.asked("sbatch")) <= 3
    box.run(LOGIN, ["scancel", job])
    with facility.client() as client:
        facility.wait_ready(client, "tally")
        assert not status(client).deployments[0].error
    assert len(facility.jobs()) == 1


def test_the_second_pilot_of_a_qos_that_allows_one_is_waited_for(new_facility: NewFacility, commands: Commands) -> None:
    facility = new_facility(pilots={"qos": TINY_QOS, "slots": 1}).up(commands.variables)
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=8, replicas=2)
    assert code == TOO_LATE
    assert "QOSMaxSubmitJobPerUserLimit" in said
    with facility.client() as client:
        facility.wait_ready(client, "tally")
        (served,) = status(client).deployments
        assert [each.state for each in served.replicas] == ["ready"], "one serves meanwhile"
        assert served.state == "starting", "the other is no failure"
        asked = len(commands.asked("sbatch"))
        until(lambda: len(commands.asked("sbatch")) > asked, "it is tried again")
