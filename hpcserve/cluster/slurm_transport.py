"""Which of the two ways to Slurm is taken, and when: at the first question, as only then a loop runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Literal

from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import SlurmJob, Transport
from hpcserve.errors import SchedulerError


class ChosenTransport:
    """A :class:`~hpcserve.cluster.slurm_jobs.Transport` that becomes one of the two when it is first used.

    Args:
        wanted: ``scheduler.transport`` of the site.
        commands: Makes the transport over Slurm's commands.
        pyslurm: Makes the transport over pyslurm.
        unusable: Why pyslurm cannot be used here; empty where it can.
    """

    def __init__(
        self,
        wanted: Literal["auto", "pyslurm", "commands"],
        *,
        commands: Callable[[], Transport],
        pyslurm: Callable[[], Transport],
        unusable: Callable[[], Awaitable[str]],
    ) -> None:
        self._wanted = wanted
        self._commands = commands
        self._pyslurm = pyslurm
        self._unusable = unusable
        self._lock = asyncio.Lock()
        self._chosen: Transport | None = None

    async def submit(self, script: str) -> JobId:
        """Hands in a job script."""
        return await (await self._transport()).submit(script)

    async def queue(self) -> Collection[SlurmJob]:
        """All jobs of this user that slurmctld still knows."""
        return await (await self._transport()).queue()

    async def history(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """What accounting has of ``jobs``."""
        return await (await self._transport()).history(jobs)

    async def runs(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """All runs that accounting has of ``jobs``."""
        return await (await self._transport()).runs(jobs)

    async def cancel(self, job: JobId) -> None:
        """Ends a job."""
        await (await self._transport()).cancel(job)

    async def close(self) -> None:
        """Lets go of the transport, if one was ever chosen."""
        if self._chosen is not None:
            await self._chosen.close()

    async def _transport(self) -> Transport:
        async with self._lock:
            if self._chosen is None:
                self._chosen = await self._choose()
            return self._chosen

    async def _choose(self) -> Transport:
        """The wanted one.

        Raises:
            SchedulerError: It is pyslurm, which cannot be used now; whether it can is looked at again each time.
        """
        if self._wanted == "commands":
            return self._commands()
        why = await self._unusable()
        if not why:
            return self._pyslurm()
        if self._wanted == "pyslurm":
            raise SchedulerError(no_pyslurm(why))
        return self._commands()


def no_pyslurm(why: str) -> str:
    """What to say where a site wants pyslurm, and it cannot be used for this reason."""
    return f'scheduler.transport: "pyslurm" cannot be used here: {why}; set it to "auto" or "commands"'
