"""A controller whose daemon has lost the lease submits and cancels nothing any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.daemon import lease
from hpcserve.daemon.controller.fence import Fence, Fenced
from hpcserve.daemon.lease import is_taken
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


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(EVERY_S)


def test_the_holder_passes_and_who_has_lost_the_lease_waits(shared: Path) -> None:
    scheduler = Noting()

    async def scenario() -> None:
        fence = Fence(shared, 3, EVERY_S)
        fenced = Fenced(scheduler, fence)
        await fenced.cancel(JOB)
        (shared / "lease-00000004.json").touch()
        await fence.lost()
        late = asyncio.create_task(fenced.cancel(JOB))
        assert fence.trouble.endswith("another daemon has taken it")
        for _ in range(5):  # looks at the lease, each of which could have let it pass
            await fence.lost()
        assert not late.done()
        assert await fenced.poll([JOB]) == {JOB: JobState(phase="running")}, "to look is no harm"
        assert await fenced.find("tag") == {JOB: PilotId("tag")}
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)

    asyncio.run(scenario())
    assert scheduler.done == [f"cancel {JOB}"]


def test_while_the_lease_cannot_be_looked_at_nothing_is_changed_and_it_says_why(shared: Path) -> None:
    scheduler = Noting()
    away = shared.with_name("away")

    async def scenario() -> None:
        fence = Fence(shared, 3, EVERY_S)
        fenced = Fenced(scheduler, fence)
        await fenced.cancel(JOB)
        assert fence.trouble == ""
        shared.rename(away)
        shared.touch()
        waiting = asyncio.create_task(fenced.cancel(JOB))
        await until(lambda: "cannot know that it still has its lease: " in fence.trouble)
        assert fence.trouble.endswith("Not a directory"), fence.trouble
        assert scheduler.done == [f"cancel {JOB}"]
        shared.unlink()
        away.rename(shared)
        await waiting
        assert fence.trouble == ""

    asyncio.run(scenario())
    assert scheduler.done == [f"cancel {JOB}"] * 2


def test_a_file_system_that_stands_still_is_told(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()

    def looked(shared_dir: Path, epoch: int) -> bool:
        goes_on.wait()
        return is_taken(shared_dir, epoch)

    monkeypatch.setattr(lease, "is_taken", looked)
    scheduler = Noting()

    async def scenario() -> None:
        fence = Fence(shared, 3, EVERY_S)
        waiting = asyncio.create_task(Fenced(scheduler, fence).submit(cast("PilotJob", SimpleNamespace(pilot="p"))))
        try:
            await until(lambda: f"the file system of {shared} has not answered for " in fence.trouble)
            assert scheduler.done == []
        finally:
            goes_on.set()
        await waiting
        assert fence.trouble == ""

    asyncio.run(scenario())
    assert scheduler.done == ["submit p"]


@pytest.mark.parametrize("purged", ["lease-00000003.json", ""])
def test_a_lease_that_was_purged_is_still_ours(shared: Path, purged: str) -> None:
    (shared / purged).rename(shared.with_name("purged"))
    scheduler = Noting()
    asyncio.run(Fenced(scheduler, Fence(shared, 3, EVERY_S)).cancel(JOB))
    assert scheduler.done == [f"cancel {JOB}"]
