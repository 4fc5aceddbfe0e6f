"""Directories that are full, jobs that are held: users are told why, and it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.options import Options
from tests.facility.commands import SlurmCommands
from tests.facility.conftest import NewFacility
from tests.facility.load import Load
from tests.facility.service import SERVABLES, Facility, status, until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

SPOOL, SHARED = "spool", "small"
NODES = 2
LONG_S = 100.0
TOO_LATE, MACHINE = 6, 8


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(nodes=NODES, sized_mib={SPOOL: 4, SHARED: 24})


@pytest.fixture
def commands(tmp_path: Path) -> SlurmCommands:
    return SlurmCommands(tmp_path / "commands")


@pytest.fixture(autouse=True)
def _all_nodes(box: Box) -> Iterator[None]:
    yield
    for name in (SPOOL, SHARED):
        make_room(box, name)
    resume(box)
    box.run(LOGIN, ["scancel", "--user=root"])
    box.wait_idle(60)


def fill(box: Box, name: str) -> None:
    """Leaves no room in a directory of limited size."""
    box.run(LOGIN, ["sh", "-c", f"cat /dev/zero > {box.directory}/{name}/filler"], check=False)


def make_room(box: Box, name: str) -> None:
    box.run(LOGIN, ["rm", "-f", f"{box.directory}/{name}/filler"])


def resume(box: Box) -> None:
    """What an administrator does with nodes that were drained; those that were not answer with an error."""
    for index in range(1, NODES + 1):
        box.run(LOGIN, ["scontrol", "update", f"NodeName=node{index}", "State=RESUME"], check=False)


def told(facility: Facility) -> str:
    """``hpcserve status`` in one line."""
    return " ".join(facility.cli("status").split())


def test_it_says_why_a_pilot_does_not_begin(box: Box, new_facility: NewFacility) -> None:
    facility = new_facility(scheduler={"poll_s": 0.5}, pilots={"max_pilots": 1}).up()
    box.partition_down("batch")
    with facility.client() as client:
        endpoint = facility.want(client, SERVABLES / "spans")
        (job,) = until(facility.jobs, "the pilot is submitted")

        def says(*texts: str) -> None:
            until(lambda: all(text in status(client).deployments[0].error for text in texts), f"it says {texts}")
            (pilot,) = status(client).pilots
            assert (pilot.job, pilot.state) == (job, "queued")
            shown = told(facility)
            for text in texts:
                assert text in pilot.waits_for
                assert text in shown

        says("PartitionDown", "starts none at present")
        box.run(LOGIN, ["scontrol", "update", f"JobId={job}", "StartTime=now+2hours"])
        box.partition_up("batch")
        says("BeginTime", "it may not start before a time")
        box.run(LOGIN, ["scontrol", "uhold", job])
        says("JobHeldUser", "`scontrol release` lets it go")
        box.run(LOGIN, ["scontrol", "release", job])
        box.run(LOGIN, ["scontrol", "hold", job])
        says("JobHeldAdmin", "ask the site's administrators")
        box.run(LOGIN, ["scontrol", "release", job])
        box.run(LOGIN, ["scontrol", "update", f"JobId={job}", "StartTime=now"])
        facility.wait_ready(client, endpoint)
        assert [pilot.job for pilot in status(client).pilots] == [job]


def test_a_full_spool_directory_starts_no_storm(box: Box, new_facility: NewFacility, commands: SlurmCommands) -> None:
    """Slurm drains one node after another, and puts the job back into the queue each time."""
    facility = new_facility(pilots={"max_pilots": 1}).up(commands.variables)
    with facility.client() as client:
        fill(box, SPOOL)
        endpoint = facility.want(client, SERVABLES / "spans")
        until(lambda: "DRAINED" in status(client).deployments[0].error, "it says why", LONG_S)
        assert "`sinfo -R` says why" in told(facility)
        assert "SlurmdSpoolDir is full" in box.run(LOGIN, ["sinfo", "--noheader", "--format=%E"]).stdout
        (pilot,) = status(client).pilots
        make_room(box, SPOOL)
        resume(box)
        facility.wait_ready(client, endpoint)
        assert [(each.pilot, each.job) for each in status(client).pilots] == [(pilot.pilot, pilot.job)]
        assert status(client).losses == ()
    assert len(commands.asked("sbatch")) == 1


def test_a_full_spool_directory_where_jobs_are_not_put_back(
    box: Box, new_facility: NewFacility, commands: SlurmCommands
) -> None:
    """Slurm cancels them, as the node's own user."""
    facility = new_facility(pilots={"max_pilots": 1, "requeue": False}).up(commands.variables)
    with facility.client() as client:
        fill(box, SPOOL)
        facility.want(client, SERVABLES / "spans")
        said = "no pilot job can be submitted for 60 s, since pilots are cancelled from outside"
        until(lambda: said in status(client).deployments[0].error, "it says why", LONG_S)
        assert said in told(facility)
    assert len(commands.asked("sbatch")) == 2


def test_a_full_shared_dir_stops_only_what_is_new(box: Box, new_facility: NewFacility, commands: SlurmCommands) -> None:
    facility = new_facility(sized=SHARED, pilots={"slots": 1}).up(commands.variables)
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spans")
        fill(box, SHARED)
        done = facility.command("deploy", endpoint, "--replicas=2", "--timeout=5")
        assert done.returncode == TOO_LATE
        full = "No space left on device; make room on this disk or in your quota"
        assert full in " ".join(done.stderr.split())
        assert full in told(facility)
        done = facility.command("publish", str(SERVABLES / "tally"))
        assert done.returncode == MACHINE
        assert "No space left on device; free some space" in " ".join(done.stderr.split())
        assert Load(facility, client, endpoint, 0.01).keep(4, 1.0).answered
        assert len(commands.asked("sbatch")) == 1
        make_room(box, SHARED)
        facility.wait_ready(client, endpoint, 2)
        assert status(client).losses == ()
        assert not status(client).deployments[0].error
    assert len(commands.asked("sbatch")) == 2
