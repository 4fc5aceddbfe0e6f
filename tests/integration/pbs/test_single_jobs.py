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
from tests.integration.pbs.server import PbsServer


@pytest.fixture
def site(pbs: PbsServer, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("PATH", pbs.path)
    site = read_site("pbs")
    return msgspec.structs.replace(site, scheduler=msgspec.structs.replace(site.scheduler, poll_s=0.1))


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
