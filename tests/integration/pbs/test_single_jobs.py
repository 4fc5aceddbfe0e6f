"""A job of which only one is to run at a time, such as a daemon's: the next one waits for the end of the one before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from hpcserve.cluster.plugins import open_scheduler
from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.config import Site, read_site
from hpcserve.types import PilotId
from tests.integration.daemon_tree import until
from tests.integration.pbs.server import PbsServer


@pytest.fixture
def site(pbs: PbsServer, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("PATH", pbs.path)
    site = read_site("pbs")
    return msgspec.structs.replace(site, scheduler=msgspec.structs.replace(site.scheduler, poll_s=0.1))


def test_ours_is_found_among_many_without_a_question_about_each(pbs: PbsServer, site: Site) -> None:
    for _ in range(12):
        pbs.submit("true", "-h")
    ours = pbs.submit("true", "-h", "-N", "hpcserve-daemon-x-0")
    assert asyncio.run(open_scheduler(site).find("daemon-x")) == {ours: "0"}
    assert pbs.asked("qstat") == [f"-u {pbs.jobs()[ours]['owner'].partition('@')[0]}", f"-f -F json -x {ours}"]


def test_the_next_one_begins_when_the_one_before_has_ended(pbs: PbsServer, site: Site, tmp_path: Path) -> None:
    async def submit(command: str) -> JobId:
        job = PilotJob(
            pilot=PilotId("0"),
            tag="daemon-x",
            argv=("/bin/sh", "-c", command),
            directory=tmp_path,
            log=tmp_path / "log",
            walltime_s=600.0,
            single=True,
        )
        return await scheduler.submit(job)

    async def state_of(job: JobId) -> JobState:
        return (await scheduler.poll([job]))[job]

    async def scenario() -> None:
        first = await submit(f"while [ ! -e {tmp_path}/over ]; do sleep 0.1; done")
        pbs.reaches(first, "R")
        second = await submit("exit 0")
        assert pbs.jobs()[second]["substate"] == 22
        assert (await state_of(second)).phase == "queued"
        (tmp_path / "over").touch()
        pbs.reaches(second, "F")
        assert (await state_of(second)).end == "completed"
        third = await submit("exit 0")
        pbs.reaches(third, "F")

    scheduler = open_scheduler(site)
    asyncio.run(scenario())


@pytest.mark.timeout(300)
def test_what_a_site_prints_before_every_answer_hides_no_job(pbs: PbsServer, site: Site, tmp_path: Path) -> None:
    pbs.fault("all", "banner", text="*** 3 days to the maintenance ***")
    command = f"touch {tmp_path}/begun; while :; do sleep 0.1; done"

    async def scenario() -> None:
        scheduler = open_scheduler(site)
        assert await scheduler.find("site") == {}
        job = await scheduler.submit(
            PilotJob(
                pilot=PilotId("1"),
                tag="site",
                argv=("/bin/sh", "-c", command),
                directory=tmp_path,
                log=tmp_path / "log",
                walltime_s=600.0,
            )
        )
        until((tmp_path / "begun").exists, "it has begun", 60.0)
        assert (await scheduler.poll([job]))[job].phase == "running"
        assert await open_scheduler(site).find("site") == {job: "1"}
        await scheduler.cancel(job)
        pbs.reaches(job, "F")
        assert (await scheduler.poll([job]))[job].end == "cancelled"

    asyncio.run(scenario())
