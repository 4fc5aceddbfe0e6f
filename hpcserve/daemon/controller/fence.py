"""What keeps a controller from acting for a daemon that is no more: it looks at the lease before it changes anything.

A daemon whose lease was taken is ended by its supervisor. But a supervisor may stand still, stopped or waiting for a
file system, while its controller goes on; and a host that was suspended wakes up in the middle of something. The pilot
jobs are the successor's by then: whoever passes the fence may submit and cancel, and who has lost the lease waits
there for its end. So does who cannot look at the lease, and says why: :attr:`Fence.trouble`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from hpcserve.cluster.seam import JobId, JobState, PilotJob, Scheduler
from hpcserve.core.spans import span
from hpcserve.daemon import lease
from hpcserve.errors import HpcserveError
from hpcserve.types import PilotId

_log = logging.getLogger(__name__)

LATE = 2
"""A look that has not come back after so many times the pause between two is late: the file system stands still."""


class Fence:
    """The lease, as the controller of its holder sees it.

    Args:
        shared_dir: Where the lease is.
        epoch: The lease's.
        every_s: How often :meth:`lost` looks.
    """

    def __init__(self, shared_dir: Path, epoch: int, every_s: float) -> None:
        self._shared_dir = shared_dir
        self._epoch = epoch
        self._every_s = every_s
        self._looked_s = time.monotonic()
        self._why = ""

    @property
    def trouble(self) -> str:
        """Why nobody passes now, in words; empty while the lease is known to be ours."""
        blind_s = time.monotonic() - self._looked_s
        if not self._why and blind_s <= LATE * self._every_s:
            return ""
        why = self._why or f"the file system of {self._shared_dir} has not answered for {span(blind_s)}"
        return f"no pilot is submitted or cancelled, since the daemon cannot know that it still has its lease: {why}"

    async def passed(self) -> None:
        """Returns once the lease is known to be ours; never, once it is another's.

        While the file system stands still that is not known, and this waits.
        """
        await self._look_until(lost=False)

    async def lost(self) -> None:
        """Returns when another daemon has the lease."""
        await self._look_until(lost=True)

    async def _look_until(self, *, lost: bool) -> None:
        while True:
            try:
                is_taken = await asyncio.to_thread(lease.is_taken, self._shared_dir, self._epoch)
            except HpcserveError as error:
                if error.message != self._why:
                    _log.warning("whether the lease is still ours cannot be told: %s", error)
                self._why = error.message
            else:
                self._looked_s, self._why = time.monotonic(), "another daemon has taken it" if is_taken else ""
                if is_taken is lost:
                    return
            await asyncio.sleep(self._every_s)


class Fenced:
    """A scheduler behind a fence: see :class:`hpcserve.cluster.seam.Scheduler`."""

    def __init__(self, scheduler: Scheduler, fence: Fence) -> None:
        self._scheduler = scheduler
        self._fence = fence

    async def submit(self, job: PilotJob) -> JobId:
        """Hands in one job, as the holder of the lease."""
        await self._fence.passed()
        return await self._scheduler.submit(job)

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        """The state of each of ``jobs``: whoever asks changes nothing."""
        return await self._scheduler.poll(jobs)

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        """All jobs with this tag that the scheduler still knows."""
        return await self._scheduler.find(tag)

    async def cancel(self, job: JobId) -> None:
        """Begins to end a job, as the holder of the lease."""
        await self._fence.passed()
        await self._scheduler.cancel(job)

    def retry_now(self) -> None:
        """The next question is asked."""
        self._scheduler.retry_now()

    async def close(self) -> None:
        """Lets go of the scheduler."""
        await self._scheduler.close()
