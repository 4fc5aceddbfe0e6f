"""A site's trial job: what is said of it, and that an interrupted trial leaves neither a job nor a file."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import pytest

from hpcserve import __version__
from hpcserve.cluster.probe import Report
from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.cluster.site_pilot import Look, died, modest, reaches, try_pilot
from hpcserve.config import load_site
from hpcserve.errors import SchedulerError
from hpcserve.types import PilotId


class Slow:
    """A scheduler that takes a job and does not get to say so, or never begins it."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.asked = asyncio.Event()
        self.jobs: dict[JobId, PilotId] = {}
        self.cancelled: list[JobId] = []

    async def submit(self, job: PilotJob) -> JobId:
        self.jobs[JobId("7")] = job.pilot
        self.jobs[JobId("8")] = PilotId("somebody-elses")
        if self.hangs:
            self.asked.set()
            await asyncio.Event().wait()
        return JobId("7")

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        self.asked.set()
        return {job: JobState(phase="queued") for job in jobs}

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        assert tag == "check"
        return self.jobs

    async def cancel(self, job: JobId) -> None:
        self.cancelled.append(job)

    def retry_now(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("hangs", [True, False])
def test_an_interrupted_trial_leaves_neither_a_job_nor_a_file(tmp_path: Path, *, hangs: bool) -> None:
    async def scenario() -> None:
        scheduler = Slow(hangs=hangs)
        site = modest(msgspec.structs.replace(load_site("local"), shared_dir=tmp_path))
        trial = asyncio.create_task(try_pilot(site, scheduler, Look([]), timeout_s=60.0, judged=reaches))
        await scheduler.asked.wait()
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        assert scheduler.cancelled == ["7"]
        assert list(tmp_path.iterdir()) == []

    asyncio.run(scenario())


class Mute(Slow):
    """A scheduler that runs a job and can tell nothing of it."""

    async def submit(self, job: PilotJob) -> JobId:
        report = Report(host="n1", version=__version__, python="python")
        (job.directory / "report.json").write_bytes(msgspec.json.encode(report))
        return await super().submit(job)

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        raise SchedulerError(f"cannot read the answer of squeue about {len(jobs)} job")


def test_a_scheduler_that_cannot_tell_of_the_job_fails_the_check(tmp_path: Path) -> None:
    site = modest(msgspec.structs.replace(load_site("local"), shared_dir=tmp_path))
    first, *others = asyncio.run(try_pilot(site, Mute(hangs=False), Look([]), timeout_s=60.0, judged=reaches))
    assert (first.subject, first.outcome) == ("queue", "failed")
    assert first.told == "cannot read the answer of squeue about 1 job"
    assert {each.outcome for each in others} == {"ok"}


@pytest.mark.parametrize(
    ("log", "hinted"),
    [
        ("/var/x: line 20: /nowhere/python: No such file or directory", True),
        ("/usr/bin/python3: No module named 'hpcserve'", True),
        ("hpcserve: a setup command of site lab failed with exit code 1: module load x", False),
        ("", False),
    ],
)
def test_a_python_that_will_not_do_is_told_by_its_field(log: str, *, hinted: bool) -> None:
    told = died(JobState(phase="ended", end="failed", cause="FAILED"), log)
    assert ("pilots.python" in told) is hinted
    assert "FAILED" in told
