"""The part of the controller that speaks with the batch scheduler, in simulated time, and agents that are words."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec

from benchmarks.simulated_slurm import CountedCommands, Slurm, transport
from benchmarks.simulated_time import until
from hpcserve.cluster.seam import JobState, PilotJob
from hpcserve.cluster.slurm import SlurmScheduler
from hpcserve.cluster.slurm_estimate import SlurmEstimate
from hpcserve.config import Site, read_site
from hpcserve.core.fleetbook import Action, ReplicaSaid
from hpcserve.core.fleetview import CancelPilot, SubmitPilot
from hpcserve.core.rollout import Version
from hpcserve.daemon.controller.agents import Agents
from hpcserve.daemon.controller.books import fleet_of
from hpcserve.daemon.controller.fates import Fates
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.scheduling import Ears, bucket_of, scheduling_of
from hpcserve.daemon.controller.shaping import Shaping
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import HpcserveError
from hpcserve.types import DeploymentName, PilotId

NAME, VERSION = DeploymentName("model"), Version("v1", "f(x)")
LOOK_S = 1.0
AWAY_S = 8.0
"""After an agent's end the broker reports it as away."""


class _Letting(Agents):
    """Nobody is let in by a broker."""

    def __init__(self) -> None:
        pass

    def lose(self, pilot: PilotId, key: str | None) -> None:
        """Nothing."""


class _Noted(Pilots):
    """Notes when the scheduler was polled, and how many pilots were to be submitted while one was unknown."""

    polled_s: list[float]
    submitted_in_doubt: int

    async def poll(self) -> dict[PilotId, JobState]:
        """As that of the real one."""
        states = await super().poll()
        if not self.left_alone_s:
            self.polled_s.append(time.monotonic())
        return states

    async def submit(self, pilot: PilotId, job: PilotJob | None = None) -> None:
        """As that of the real one."""
        self.submitted_in_doubt += any(each.state.phase == "unknown" for each in self.jobs.values())
        await super().submit(pilot, job)


def site_of(place: Path, max_pilots: int | None = None) -> Site:
    """The shipped site ``slurm``, its files in ``place``. Its pilots may be shorter, so that it is asked for starts.

    Args:
        place: An empty directory.
        max_pilots: So many pilots there may be; None: as many as the site says.
    """
    for each in ("state", "shared"):
        (place / each).mkdir(parents=True, exist_ok=True)
    found = read_site("slurm")
    pilots = msgspec.structs.replace(
        found.pilots,
        min_walltime_s=found.pilots.walltime_s / 12,
        max_pilots=max_pilots or found.pilots.max_pilots,
    )
    return msgspec.structs.replace(found, state_dir=place / "state", shared_dir=place / "shared", pilots=pilots)


def scheduler_of(site: Site, slurm: Slurm, kind: str) -> SlurmScheduler:
    """The site's scheduler, over a counted Slurm: ``commands`` or ``pyslurm``."""
    return SlurmScheduler(
        transport(slurm, kind),
        render=lambda _, name: f"#!/bin/sh\n#SBATCH --job-name={name}\n",
        clock=time.monotonic,
        poll_s=site.scheduler.poll_s,
        poll_max_s=site.scheduler.poll_max_s,
        estimate=SlurmEstimate(CountedCommands(slurm)).starts_at,
    )


class Daemon:
    """Scheduling, pilots, fates and the fleet's books, over a counted Slurm.

    Args:
        place: Where its files are.
        slurm: What it asks.
        kind: ``commands`` or ``pyslurm``.
        max_pilots: See :func:`site_of`.
    """

    def __init__(self, place: Path, slurm: Slurm, kind: str, max_pilots: int | None = None) -> None:
        self.site = site_of(place, max_pilots)
        self.slurm = slurm
        limits = self.site.scheduler
        scheduler = scheduler_of(self.site, slurm, kind)
        self._storage = Storage()
        self.fleet = fleet_of(self.site)
        bucket = bucket_of(self.site)
        shaping = Shaping(self.site, scheduler, self.fleet, bucket)
        self.pilots = _Noted(self.site, scheduler, self._storage, place / "record", shaping.shaped)
        self.pilots.polled_s, self.pilots.submitted_in_doubt = [], 0
        fates = Fates(self.pilots, self.fleet, _Letting(), self._act)
        ears = Ears(seen=fates.seen, refused=fates.refused, dropped=fates.dropped, waits=fates.waits)
        self.scheduling = scheduling_of(
            self.site, self.pilots, ears, bucket=bucket, poll_s=lambda: limits.poll_s, ends_s=self._ends_s
        )
        self._told: dict[PilotId, tuple[ReplicaSaid, ...]] = {}
        self._left_s: dict[PilotId, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._storage.open(self.site.state_dir / "db")
        self._tasks = [asyncio.create_task(each) for each in (self.scheduling.run(), self._steer())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._storage.close()

    def want(self, replicas: int) -> None:
        """So many replicas, of which each needs a pilot; 0: the deployment is not served any more."""
        if replicas:
            self.fleet.want(NAME, VERSION, replicas)
        else:
            self.fleet.unwant(NAME)

    def knows(self, phase: str) -> bool:
        """Whether there are pilots, and all of them are so, as far as the scheduler has told."""
        states = {job.state.phase for job in self.pilots.jobs.values()}
        return states == {phase}

    @property
    def knows_all(self) -> bool:
        """Whether there are pilots, and the scheduler has told of each where it is."""
        return bool(self.pilots.jobs) and all(job.state.phase != "unknown" for job in self.pilots.jobs.values())

    async def until_ready(self, replicas: int = 1) -> None:
        """Returns when so many are ready and their pilots are known to run."""
        await until(lambda: self._ready() >= replicas and self.knows("running"))

    def _ready(self) -> int:
        return sum(each.state == "ready" for each in self.fleet.replicas.values())

    def _ends_s(self) -> Iterable[float]:
        return [pilot.ends_s for pilot in self.fleet.pilots.values() if pilot.ends_s is not None]

    async def _act(self, actions: Iterable[Action], _: str = "") -> None:
        for action in actions:
            if isinstance(action, SubmitPilot):
                self.scheduling.submit(action.pilot)
            elif isinstance(action, CancelPilot):
                self.scheduling.cancel(action.pilot)

    async def _steer(self) -> None:
        while True:
            await self._act(self.fleet.step(time.monotonic()))
            for pilot in list(self.fleet.pilots):
                await self._agent(pilot)
            for replica in self.fleet.replicas:
                self.fleet.idle(replica)
            await asyncio.sleep(LOOK_S)

    async def _agent(self, pilot: PilotId) -> None:
        """What the agent of a pilot does in this second, if there is one."""
        if self._runs(pilot):
            if pilot in self._told or await self._enrols(pilot):
                await self._reports(pilot)
        elif pilot in self._told:
            gone_s = self._left_s.setdefault(pilot, time.monotonic())
            if time.monotonic() >= gone_s + AWAY_S and self.fleet.pilots[pilot].away_since_s is None:
                self.fleet.away(pilot, time.monotonic(), AWAY_S)
                self.scheduling.look()

    def _runs(self, pilot: PilotId) -> bool:
        jobs = [job for job in self.slurm.jobs.values() if job.name.endswith(f"-{pilot}")]
        return any(job.state(time.monotonic()) == "RUNNING" for job in jobs)

    async def _enrols(self, pilot: PilotId) -> bool:
        path = self.site.shared_dir / "enrolments" / f"{pilot}.0.json"
        told = json.loads(path.read_bytes())
        try:
            await self.pilots.enrol(pilot, told["incarnation"], told["secret"], b"k" * 32, "node1")
        except HpcserveError:
            return False  # it asks again
        return True

    async def _reports(self, pilot: PilotId) -> None:
        orders = self.fleet.orders(pilot)
        said = tuple(ReplicaSaid(each, "ready", host="node1") for each in orders.run)
        ended = {each.replica for each in self._told.get(pilot, ())} - set(orders.run) - set(orders.forget)
        said += tuple(ReplicaSaid(each, "exited", host="node1") for each in sorted(ended))
        if self._told.get(pilot) == said:
            return
        self._told[pilot] = said
        now = time.monotonic()
        ends_s = now + self.site.pilots.walltime_s * 100  # no walltime ends here
        await self._act(self.fleet.reported(pilot, said, ends_s=ends_s, leaving=False, now=now, host="node1"))
