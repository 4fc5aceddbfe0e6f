"""Where pilots run, for the agents that want to be let in: one question serves all that come at a time.

Nobody causes a second one sooner than polls may be, also not one who asks for the first time: of a hundred pilots that
start together the scheduler may know some hosts only a moment later. They ask again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from hpcserve.cluster.seam import Scheduler
from hpcserve.daemon.controller.jobs import Job
from hpcserve.types import PilotId


class Hosts:
    """Asks the scheduler for those that nobody knows yet.

    Args:
        scheduler: Is asked.
        jobs: All that live.
        find: Names the jobs that have no name yet.
        poll_s: The scheduler is asked no more often.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        jobs: Mapping[PilotId, Job],
        *,
        find: Callable[[], Awaitable[None]],
        poll_s: float,
    ) -> None:
        self._scheduler = scheduler
        self._jobs = jobs
        self._find = find
        self._poll_s = poll_s
        self._asking = asyncio.Lock()
        self._not_before_s = float("-inf")

    async def of(self, job: Job) -> str:
        """Where a job runs; empty if that is not known.

        Raises:
            SchedulerError: The scheduler does not answer.
        """
        async with self._asking:
            if not job.state.host and time.monotonic() >= self._not_before_s:
                self._not_before_s = time.monotonic() + self._poll_s
                if job.name is None:
                    await self._find()
                await self._learn(job)
        return job.state.host

    async def _learn(self, job: Job) -> None:
        unknown = {each.name: each for each in self._jobs.values() if each.name is not None and not each.state.host}
        if job.name in unknown:
            for name, state in (await self._scheduler.poll(list(unknown))).items():
                if name == job.name or state.host:
                    unknown[name].state, unknown[name].seen_s = state, time.monotonic()
