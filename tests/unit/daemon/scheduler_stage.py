"""A batch scheduler in memory, and pilots that are handed to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.config import Pilots as PilotSettings
from hpcserve.config import Scheduler as SchedulerSettings
from hpcserve.config import Site, load_site
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import HpcserveError, SchedulerError
from hpcserve.types import PilotId

P = PilotId("pilot-1")
NODE = "node1"


class Cluster:
    """A batch scheduler in memory. ``troubles`` are raised by the next submissions, one each.

    ``undying`` are jobs that it does not end; where they are asked for it ends no others ``meanwhile``. ``calls``: what
    it was asked for, a word each, with the job's name for a cancellation.
    """

    def __init__(self) -> None:
        self.jobs: dict[JobId, tuple[str, PilotId, JobState]] = {}
        self.cancelled: list[JobId] = []
        self.troubles: list[HpcserveError] = []
        self.takes_it_all_the_same = False
        self.submissions = self.polls = 0
        self.silent = self.left_alone = self.cancels_nothing = False
        self.undying: set[JobId] = set()
        self.meanwhile = True
        self.calls: list[str] = []

    def take(self, tag: str, pilot: PilotId, state: JobState | None = None) -> JobId:
        name = JobId(str(len(self.jobs) + 1))
        self.jobs[name] = (tag, pilot, state or JobState(phase="running", host=NODE))
        return name

    def become(self, name: JobId, state: JobState) -> None:
        tag, pilot, _ = self.jobs[name]
        self.jobs[name] = (tag, pilot, state)

    async def submit(self, job: PilotJob) -> JobId:
        self.submissions += 1
        self._answer()
        if self.troubles:
            trouble = self.troubles.pop(0)
            if self.takes_it_all_the_same:
                self.take(job.tag, job.pilot)
            raise trouble
        return self.take(job.tag, job.pilot)

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        self.polls += 1
        self.calls.append("poll")
        self._answer()
        return {name: self.jobs[name][2] for name in jobs}

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        self._answer()
        return {name: pilot for name, (ours, pilot, _) in self.jobs.items() if ours == tag}

    async def cancel(self, job: JobId) -> None:
        self._answer()
        if not self.meanwhile:
            raise SchedulerError("scancel does not answer; asked again in 1 s", retry_after_s=1.0)
        self.calls.append(job)
        if job in self.undying:
            raise SchedulerError(f"cannot connect to the node of job {job}")
        if self.cancels_nothing:
            raise SchedulerError("scancel does not answer")
        self.cancelled.append(job)

    def retry_now(self) -> None:
        self.left_alone = False

    async def close(self) -> None:
        pass

    def _answer(self) -> None:
        if self.silent or self.left_alone:
            raise SchedulerError("slurmctld does not answer")


def site(place: Path, timeout_s: float = 30.0) -> Site:
    return msgspec.structs.replace(
        load_site("local"),
        state_dir=place / "state",
        shared_dir=place / "shared",
        scheduler=SchedulerSettings(kind="slurm", timeout_s=timeout_s),
        pilots=PilotSettings(),
    )


def play(
    place: Path,
    scene: Callable[[Pilots, Cluster], Awaitable[None]],
    timeout_s: float = 30.0,
    cluster: type[Cluster] = Cluster,
) -> None:
    """A scene with pilots of a store of their own."""

    async def scenario() -> None:
        (place / "state").mkdir(exist_ok=True)
        (place / "shared").mkdir(exist_ok=True)
        storage = Storage()
        await storage.open(place / "state" / "db")
        there = cluster()
        try:
            await scene(Pilots(site(place, timeout_s), there, storage, place / "record"), there)
        finally:
            await storage.close()

    asyncio.run(scenario())


def enrolment(place: Path, restarts: int = 0) -> dict[str, Any]:
    """What the agent of this incarnation is told."""
    said: dict[str, Any] = json.loads((place / "shared" / "enrolments" / f"{P}.{restarts}.json").read_bytes())
    return said


async def enrol(pilots: Pilots, told: dict[str, Any], key: bytes, host: str = NODE) -> None:
    await pilots.enrol(P, told["incarnation"], told["secret"], key * 32, host)
