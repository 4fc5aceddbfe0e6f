"""The adapter on a real Slurm, over each transport that there is here; no agent, no daemon."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hpcserve.cluster.runner import Runner
from hpcserve.cluster.script import job_script
from hpcserve.cluster.seam import JobEnd, JobId, JobState, PilotJob
from hpcserve.cluster.slurm import SlurmScheduler
from hpcserve.cluster.slurm_commands import CommandsTransport
from hpcserve.cluster.slurm_jobs import Transport
from hpcserve.config import Pilots, Scheduler, Site
from hpcserve.types import PilotId
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.host import until
from tests.facility.driven import DrivenTransport, Driver

TAG = "0a1b2c3d"
TIMEOUT_S = 20.0
TOO_MANY = 99
"""With so many nodes a job waits for ever."""
LOCALE = {"LANG": "de_DE.UTF-8", "LC_TIME": "fr_FR.UTF-8"}
"""Of the daemon, so to say, whose jobs inherit it."""
HASTE = 10.0
"""A clock runs so much faster where a test would have to wait for a minute of it."""


def over_commands(box: Box) -> Transport:
    return CommandsTransport(Runner(timeout_s=TIMEOUT_S, environment=environment(box)))


def over_pyslurm(box: Box) -> Transport:
    return DrivenTransport(Driver(box, "pyslurm", LOCALE))


TRANSPORTS: Mapping[str, Callable[[Box], Transport]] = {"commands": over_commands, "pyslurm": over_pyslurm}


def environment(box: Box) -> dict[str, str]:
    """By which Slurm's commands are found that run on the login node."""
    programs = box.directory / "programs"
    programs.mkdir(exist_ok=True)
    enter = f"nsenter --target={box.host(LOGIN).init} --mount --net --uts --ipc -- env --chdir={box.directory}"
    for name in ("sbatch", "squeue", "sacct", "scancel"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {enter} {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    return box.host(LOGIN).environment({"PATH": f"{programs}:{os.environ['PATH']}", **LOCALE})


@dataclass
class Service:
    """What the controller is to the scheduler."""

    box: Box
    directory: Path
    transport: Transport
    asked_by: str

    def site(self, **pilots: Any) -> Site:
        usual: dict[str, Any] = {"warn_s": 1.0, "cpus_per_node": 1, "launcher": "srun"}
        return Site(
            name="box",
            state_dir=self.directory,
            shared_dir=self.directory,
            scheduler=Scheduler(kind="slurm"),
            pilots=Pilots(**usual | pilots),
        )

    def scheduler(self, **pilots: Any) -> SlurmScheduler:
        return SlurmScheduler(
            self.transport,
            render=partial(job_script, self.site(**pilots)),
            clock=lambda: HASTE * time.monotonic(),
        )

    def job(self, script: str, *, pilot: str = "pilot-1", walltime_s: float = 600.0) -> PilotJob:
        # What the job script adds for the agent, the shell leaves aside.
        argv = ("sh", "-c", script, "agent")
        log = self.directory / f"{pilot}.log"
        return PilotJob(
            pilot=PilotId(pilot), tag=TAG, argv=argv, directory=self.directory, log=log, walltime_s=walltime_s
        )

    def submitted(self, script: str, *, walltime_s: float = 600.0, **pilots: Any) -> JobId:
        return asyncio.run(self.scheduler(**pilots).submit(self.job(script, walltime_s=walltime_s)))

    def until(self, job: JobId, reached: Callable[[JobState], object], *, within_s: float = 60.0) -> JobState:
        """Polls until the job is in a state."""

        async def ask() -> JobState:
            scheduler = self.scheduler()
            end = time.monotonic() + within_s
            while True:
                state = (await scheduler.poll([job]))[job]
                if reached(state):
                    return state
                assert time.monotonic() < end, f"job {job} is still {state}"
                await asyncio.sleep(0.2)

        return asyncio.run(ask())

    def ended(self, job: JobId, *, within_s: float = 60.0) -> JobState:
        return self.until(job, lambda state: state.phase == "ended", within_s=within_s)

    def is_accounted(self, job: JobId) -> bool:
        """Whether accounting has heard of it."""
        return bool(asyncio.run(self.transport.history([job])))

    def state_is_saved(self) -> None:
        """slurmctld writes down what it knows every few seconds; killed before, it forgets jobs."""
        began = time.time()
        self.submitted("true", nodes=TOO_MANY)
        written = self.box.seen(self.box.directory / "state" / "job_state")
        until(lambda: written.stat().st_mtime > began, "slurmctld saves its state")

    def told(self, former: JobEnd) -> JobEnd | None:
        """How a run before the present one ended, if the transport tells."""
        return former if self.asked_by == "commands" else None

    def running(self, job: JobId) -> JobState:
        return self.until(job, lambda state: state.phase == "running")


@contextmanager
def served(box: Box, directory: Path, transport: str) -> Iterator[Service]:
    """The adapter over the transport of this name; its jobs are left to the block."""
    made = TRANSPORTS[transport](box)
    try:
        yield Service(box, directory, made, transport)
    finally:
        asyncio.run(made.close())
