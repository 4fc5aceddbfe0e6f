"""Slurm's jobs as its two transports tell of them, and the seam between those and the adapter. No behaviour.

The adapter, :mod:`hpcserve.cluster.slurm`, knows what a state means; a transport, by commands or by pyslurm, knows how
to ask.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from hpcserve.cluster.seam import Answered, JobId


class NoAccounting(Answered):
    """This Slurm keeps no accounting, so nobody will ever tell of a job that slurmctld has forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """One job, in Slurm's own words.

    Attributes:
        job: Its id.
        name: Its name, by which it is found again; empty where accounting was asked.
        state: The base state, such as ``PENDING``; flags such as COMPLETING are in ``flags``.
        flags: What Slurm says beside it.
        reason: Why it waits or ended, such as ``Resources``; empty for Slurm's ``None``.
        host: The node that runs its script, or ran it; empty before.
        exit_code: Of its script; None while nobody knows.
        signal: That ended its script; 0 for none.
        restarts: How often it was requeued.
        starts_in_s: The guess for a job that waits, by Slurm's own clock; None: there is none, or it has passed.
    """

    job: JobId
    name: str
    state: str
    flags: frozenset[str] = frozenset()
    reason: str = ""
    host: str = ""
    exit_code: int | None = None
    signal: int = 0
    restarts: int = 0
    starts_in_s: float | None = None


def still_to_come(start_s: float, now_s: float) -> float | None:
    """In so many seconds; None for a time that has passed.

    Slurm keeps its guess until the backfill scheduler looks at the job again, so it may be hours old.
    """
    return start_s - now_s if start_s >= now_s else None


class Transport(Protocol):
    """A way to speak to Slurm. Its methods raise the errors of :class:`hpcserve.cluster.seam.Scheduler`."""

    async def submit(self, script: str) -> JobId:
        """Hands in a job script, in whose ``#SBATCH`` lines everything stands."""

    async def queue(self) -> Collection[SlurmJob]:
        """All jobs of this user that slurmctld still knows, in one question."""

    async def history(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """What accounting has of ``jobs``, the last run of each; those that it does not know are left out.

        Raises:
            NoAccounting: There is no accounting here at all.
        """

    async def runs(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """All runs that accounting has of ``jobs``, those of one job in their order; none where it cannot tell.

        Raises:
            NoAccounting: There is no accounting here at all.
        """

    async def cancel(self, job: JobId) -> None:
        """Ends a job; nothing happens to one that has ended."""

    async def close(self) -> None:
        """Lets go."""
