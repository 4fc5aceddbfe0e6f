"""Stand-ins for Slurm's commands that answer what a test says, and the adapter over them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

from hpcserve.cluster import slurm_text
from hpcserve.cluster.runner import Runner
from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.cluster.slurm import SlurmScheduler
from hpcserve.cluster.slurm_commands import CommandsTransport
from hpcserve.cluster.slurm_estimate import SlurmEstimate
from hpcserve.types import PilotId

FAKES = Path(__file__).parents[2] / "fakes" / "slurm"
DATA = Path(__file__).parents[2] / "data"
ONE = JobId("1")
WIDTHS = [int(width) for width in re.findall(r":(\d+)", slurm_text.QUEUE_FORMAT)]
NO_ACCOUNTING = "Slurm accounting storage is disabled\n"
NO_SLURMDBD = "sacct: error: Problem talking to the database: Connection refused\n"


class FakeSlurm:
    """What the stand-ins answer, and what they were asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_s = 1000.0
        self.version("22.05.8")

    def version(self, release: str) -> None:
        (self.directory / "version").write_text(f"slurm {release}\n")

    def says(self, command: str, out: str | bytes = b"", *, err: str = "", code: int = 0, does: str = "") -> None:
        files = {"out": out if isinstance(out, bytes) else out.encode(), "err": err.encode(), "does": does.encode()}
        for ending, content in (files | {"code": str(code).encode()}).items():
            (self.directory / f"{command}.{ending}").write_bytes(content)

    def queue(self, *jobs: tuple[str, str, str]) -> None:
        self.says("squeue", b"".join(record(*job) for job in jobs))

    def asked(self, command: str) -> list[str]:
        path = self.directory / f"{command}.asked"
        return path.read_text().splitlines() if path.exists() else []

    def scheduler(
        self, *, timeout_s: float = 20.0, max_bytes: int = 10_000_000, path: str = f"{FAKES}:/usr/bin:/bin"
    ) -> SlurmScheduler:
        environment = {"PATH": path, "FAKE_SLURM": str(self.directory)}
        runner = Runner(timeout_s=timeout_s, environment=environment, max_bytes=max_bytes)
        return SlurmScheduler(
            CommandsTransport(runner),
            render=lambda job, name: f"#!/bin/sh\n# {name}\n{job.argv}\n",
            clock=lambda: self.now_s,
            estimate=SlurmEstimate(runner).starts_at,
        )


def record(job: str, state: str, reason: str, *, name: str = "x", restarts: str = "0") -> bytes:
    host = "n/a" if state == "PENDING" else "node1"
    fields = (job, state, restarts, "0", host, "N/A", reason, name)
    return b"".join(f"{field:{width}}|".encode() for field, width in zip(fields, WIDTHS, strict=True)) + b"\n"


def polled(scheduler: SlurmScheduler, *jobs: JobId, times: int = 1) -> Mapping[JobId, JobState]:
    async def ask() -> Mapping[JobId, JobState]:
        states: Mapping[JobId, JobState] = {}
        for _ in range(times):
            states = await scheduler.poll(jobs or (ONE,))
        return states

    return asyncio.run(ask())


def pilot_job(tmp_path: Path) -> PilotJob:
    return PilotJob(
        pilot=PilotId("pilot-3"),
        tag="0a1b2c3d",
        argv=("agent",),
        directory=tmp_path,
        log=tmp_path / "log",
        walltime_s=60,
    )
