"""A pilot whose job was given up is not forgotten at once: its job may come up late."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.config import Scheduler, Site
from hpcserve.daemon.controller.jobs import CUT_OFF
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.storage import Storage
from hpcserve.registry.rows import PilotRow
from hpcserve.registry.store import Store
from hpcserve.types import PilotId

LATE = PilotId("pilot-late")
LONG_AGO = PilotRow(id=LATE, incarnation="i", state="submitting", secret_sha256="", submitted_s=1.0)


class Cluster:
    """A scheduler with the jobs that it is given."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, PilotId] = {}
        self.cancelled: list[JobId] = []

    async def submit(self, job: PilotJob) -> JobId:
        raise AssertionError(f"nothing is submitted here: {job}")

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        return {job: JobState(phase="ended" if job in self.cancelled else "queued") for job in jobs}

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        assert tag
        return self.jobs

    async def cancel(self, job: JobId) -> None:
        self.cancelled.append(job)

    def retry_now(self) -> None:
        raise AssertionError("nobody waits here")

    async def close(self) -> None:
        pass


async def given_up(place: Path, cluster: Cluster) -> tuple[Pilots, Storage]:
    site = Site(name="s", state_dir=place, shared_dir=place, scheduler=Scheduler(kind="slurm", timeout_s=1.0))
    storage = Storage()
    await storage.open(place / "db")
    await storage.do(Store.put_pilot, LONG_AGO)
    pilots = Pilots(site, cluster, storage, place / "record")
    assert await pilots.recover() == [LATE]
    (state,) = (await pilots.poll()).values()
    assert state.phase == "ended"
    assert state.cause.endswith(CUT_OFF)
    await pilots.end(LATE, state.cause)
    return pilots, storage


def test_a_job_that_comes_up_late_is_cancelled_once(tmp_path: Path) -> None:
    async def play() -> None:
        cluster = Cluster()
        pilots, storage = await given_up(tmp_path, cluster)
        assert pilots.is_looking
        await pilots.poll()
        assert cluster.cancelled == []
        cluster.jobs[JobId("7")] = LATE
        await pilots.poll()
        await pilots.poll()
        assert cluster.cancelled == ["7"]
        await storage.close()

    asyncio.run(play())
