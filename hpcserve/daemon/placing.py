"""The scheduler as it is told of for the daemon's own job: by the fields of ``[daemon]``. Decides nothing.

The scheduler's adapters know of pilots alone, and so name the fields of ``[pilots]``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from hpcserve.cluster.seam import JobId, JobState, PilotJob, Scheduler
from hpcserve.config import Daemon, Pilots
from hpcserve.errors import HpcserveError
from hpcserve.types import PilotId


def _names(section: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(section)}


_OWN = re.compile(rf"\bpilots\.({'|'.join(sorted(_names(Daemon) & _names(Pilots)))})\b")
# The job has one node, no GPU and no reservation, if not by its directives.
_NOT_ASKED_FOR = re.compile(r"\bpilots\.(?:nodes|gpus_per_node|reservation)(?:, | or )")
_TOO_MANY_NODES = "lower pilots.nodes"
_BY_DIRECTIVE = re.compile(r"\bpilots\.(?:gpus_per_node|reservation)\b")


def of_the_daemon(text: str) -> str:
    """What an adapter says of a pilot job, said of the daemon's."""
    text = _NOT_ASKED_FOR.sub("", text).replace(_TOO_MANY_NODES, "choose another daemon.partition")
    return _OWN.sub(r"daemon.\1", _BY_DIRECTIVE.sub("daemon.directives", text)).replace("[pilots]", "[daemon]")


class Placing:
    """A scheduler for the daemon's own jobs: see :class:`hpcserve.cluster.seam.Scheduler`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def submit(self, job: PilotJob) -> JobId:
        """Hands in one job."""
        with said_of_the_daemon():
            return await self._scheduler.submit(job)

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        """The state of each of ``jobs``."""
        found = await self._scheduler.poll(jobs)
        return {job: dataclasses.replace(state, cause=of_the_daemon(state.cause)) for job, state in found.items()}

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        """All jobs with this tag that the scheduler still knows."""
        return await self._scheduler.find(tag)

    async def cancel(self, job: JobId) -> None:
        """Begins to end a job."""
        await self._scheduler.cancel(job)

    def retry_now(self) -> None:
        """The next question is asked."""
        self._scheduler.retry_now()

    async def close(self) -> None:
        """Lets go of the scheduler."""
        await self._scheduler.close()


@contextmanager
def said_of_the_daemon() -> Iterator[None]:
    """What an adapter refuses of a pilot job is said of the daemon's."""
    try:
        yield
    except HpcserveError as error:
        told = of_the_daemon(error.message)
        raise type(error)(told, retry_after_s=error.retry_after_s) from error
