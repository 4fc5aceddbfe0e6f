"""Slurm asked by one of the two transports on the box's login node, where the socket of munge and the network are.

Where pyslurm is not installed, a stand-in is in its place that gets its answers from the same Slurm, by its commands.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

import msgspec

from hpcserve.cluster.runner import Unanswered
from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import NoAccounting, SlurmJob
from hpcserve.errors import JobRefused, NoRoom, SchedulerError, SubmissionUnknown
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN, PROJECT

STAND_IN = {} if find_spec("pyslurm") else {"PYTHONPATH": str(PROJECT / "tests/fakes"), "PYSLURM_STANDIN": "commands"}
ERRORS: dict[str, type[SchedulerError]] = {
    kind.__name__: kind for kind in (JobRefused, NoRoom, NoAccounting, SchedulerError, SubmissionUnknown, Unanswered)
}


class Driver:
    """A process that has the transport and makes one call of it after the other."""

    def __init__(self, box: Box, transport: str, environment: Mapping[str, str] | None = None) -> None:
        self._process = box.spawn(
            LOGIN,
            [sys.executable, str(PROJECT / "tests/fakes/transport_driver.py"), transport],
            env={**STAND_IN, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
        )

    def call(self, method: str, *arguments: object) -> dict[str, Any]:
        """The answer, with ``returned``, or with ``error``, the class, and ``message``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """Ends it, and looks that it ends well."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=30) == 0
        self._process.stdout.close()


class DrivenTransport:
    """The transport of a driver, as one of this process."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def submit(self, script: str) -> JobId:
        return JobId(await self._call("submit", script))

    async def queue(self) -> Collection[SlurmJob]:
        return msgspec.convert(await self._call("queue"), list[SlurmJob])

    async def history(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        return msgspec.convert(await self._call("history", list(jobs)), list[SlurmJob])

    async def runs(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        return msgspec.convert(await self._call("runs", list(jobs)), list[SlurmJob])

    async def cancel(self, job: JobId) -> None:
        await self._call("cancel", job)

    async def close(self) -> None:
        await asyncio.to_thread(self._driver.end)

    async def _call(self, method: str, *arguments: object) -> Any:
        answer = await asyncio.to_thread(self._driver.call, method, *arguments)
        if "error" in answer:
            raise ERRORS[answer["error"]](answer["message"])
        return answer["returned"]
