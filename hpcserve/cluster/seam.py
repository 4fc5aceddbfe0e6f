"""What the controller asks of a batch scheduler, and an agent of a launcher.

A scheduler keeps pilot jobs; when to submit or to cancel one is decided in :mod:`hpcserve.core.deployments`.
Third parties register factories under the entry points ``hpcserve.schedulers`` (called with the
:class:`~hpcserve.config.Site`) and ``hpcserve.launchers`` (called with nothing).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType, Protocol

from hpcserve.types import PilotId

JobId = NewType("JobId", str)
"""What the scheduler calls a job. Opaque to everyone else."""

JobPhase = Literal["queued", "running", "ended", "unknown"]
"""``unknown``: the scheduler gave no answer about the job. It is never a word for "gone"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotJob:
    """One pilot job to submit. Its output goes to the file ``log``; it starts in ``directory``."""

    pilot: PilotId
    argv: tuple[str, ...]
    directory: Path
    log: Path
    walltime_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What the scheduler says about one job.

    Attributes:
        phase: Where the job is.
        cause: Why it ended, or why nothing is known, in words.
        exit_code: Its exit code, negative for a signal; None when it has not ended or nobody knows.
        host: The node that runs it, the first of several.
    """

    phase: JobPhase
    cause: str = ""
    exit_code: int | None = None
    host: str = ""


class Scheduler(Protocol):
    """A batch scheduler. Its methods raise SchedulerError when it refuses or does not answer."""

    async def submit(self, job: PilotJob) -> JobId:
        """Hands in one job and returns its id."""

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        """The state of each of ``jobs``, each of them present. Called every few seconds while jobs live."""

    async def find(self) -> Mapping[JobId, PilotId]:
        """All jobs of ours that the scheduler still knows, found by their tag; ended ones may be among them."""

    async def cancel(self, job: JobId) -> None:
        """Begins to end a job, kindly first. Not an error for a job that has ended or never was."""

    async def close(self) -> None:
        """Lets go of the scheduler. Jobs go on."""


class Launcher(Protocol):
    """How an agent starts the processes of a replica."""

    def command(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The command that runs ``argv`` as a replica."""
