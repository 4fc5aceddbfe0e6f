"""A controller whose daemon has lost the lease submits and cancels nothing any more."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.daemon.controller.fence import Fence, Fenced
from hpcserve.types import PilotId

EVERY_S = 0.01
JOB = JobId("7")


class Noting:
    """A scheduler that notes what changes something."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def submit(self, job: PilotJob) -> JobId:
        self.done.append(f"submit {job.pilot}")
        return JOB

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        return {job: JobState(phase="running") for job in jobs}

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        return {JOB: PilotId(tag)}

    async def cancel(self, job: JobId) -> None:
        self.done.append(f"cancel {job}")

    def retry_now(self) -> None:
        self.done.append("retry now")

    async def close(self) -> None:
        self.done.append("close")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    made = tmp_path / "shared"
    made.mkdir()
    (made / "lease-00000003.json").touch()
    return made


def test_the_holder_passes_and_who_has_lost_the_lease_waits(shared: Path) -> None:
    scheduler = Noting()

    async def scenario() -> None:
        fence = Fence(shared, 3, EVERY_S)
        fenced = Fenced(scheduler, fence)
        await fenced.cancel(JOB)
        (shared / "lease-00000004.json").touch()
        await fence.lost()
        late = asyncio.create_task(fenced.cancel(JOB))
        for _ in range(5):  # looks at the lease, each of which could have let it pass
            await fence.lost()
        assert not late.done()
        assert await fenced.poll([JOB]) == {JOB: JobState(phase="running")}, "to look is no harm"
        assert await fenced.find("tag") == {JOB: PilotId("tag")}
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)

    asyncio.run(scenario())
    assert scheduler.done == [f"cancel {JOB}"]


def test_while_the_lease_cannot_be_looked_at_nothing_is_changed(shared: Path) -> None:
    scheduler = Noting()
    away = shared.with_name("away")

    async def scenario() -> None:
        fenced = Fenced(scheduler, Fence(shared, 3, EVERY_S))
        shared.rename(away)
        shared.touch()
        waiting = asyncio.create_task(fenced.cancel(JOB))
        await asyncio.sleep(5 * EVERY_S)  # long enough for a look, and if not, the test passes all the same
        assert scheduler.done == []
        shared.unlink()
        away.rename(shared)
        await waiting

    asyncio.run(scenario())
    assert scheduler.done == [f"cancel {JOB}"]


@pytest.mark.parametrize("purged", ["lease-00000003.json", ""])
def test_a_lease_that_was_purged_is_still_ours(shared: Path, purged: str) -> None:
    (shared / purged).rename(shared.with_name("purged"))
    scheduler = Noting()
    asyncio.run(Fenced(scheduler, Fence(shared, 3, EVERY_S)).cancel(JOB))
    assert scheduler.done == [f"cancel {JOB}"]
