"""pyslurm's job objects as :class:`~hpcserve.cluster.slurm_jobs.SlurmJob`. Pure; imports no pyslurm.

Source: what pyslurm 25.11.2 answered on a cluster of Slurm 25.11.7, in ``tests/data/pyslurm-25.11``.
"""

from __future__ import annotations

from typing import Protocol

from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import SlurmJob, still_to_come
from hpcserve.cluster.slurm_states import meaning
from hpcserve.cluster.slurm_text import first_node


class LiveJob(Protocol):
    """What is used of ``pyslurm.Job``. Times are seconds since 1970."""

    id: int
    name: str | None
    state: str
    state_reason: str | None
    batch_host: str | None
    allocated_nodes: str | None
    exit_code: int | None
    exit_code_signal: int | None
    requeue_count: int | None
    start_time: int | None


class PastJob(Protocol):
    """What is used of ``pyslurm.db.Job``."""

    id: int
    name: str | None
    state: str
    state_reason: str | None
    nodelist: str | None
    exit_code: int | None
    exit_code_signal: int | None
    requeue_count: int | None


def live(job: LiveJob, *, now_s: float) -> SlurmJob:
    """A job that slurmctld knows.

    pyslurm gives one word for a state, which is a flag where one is set: a job that is COMPLETING hides how it ended.

    Args:
        job: As pyslurm gave it.
        now_s: Seconds since 1970.
    """
    waits, ended = job.state == "PENDING", _ended(job.state)
    # On a job that waits it is the guess of the backfill scheduler, or when a requeued one may start again.
    guess = job.start_time if waits else None
    return SlurmJob(
        job=JobId(str(job.id)),
        name=job.name or "",
        state=job.state,
        reason=_reason(job.state_reason),
        host=job.batch_host or first_node(job.allocated_nodes or ""),
        exit_code=job.exit_code if ended else None,
        signal=(job.exit_code_signal or 0) if ended else 0,
        restarts=job.requeue_count or 0,
        starts_in_s=None if guess is None else still_to_come(guess, now_s),
    )


def past(job: PastJob) -> SlurmJob:
    """The last run of a job, from accounting."""
    ended = _ended(job.state)
    return SlurmJob(
        job=JobId(str(job.id)),
        name=job.name or "",
        state=job.state,
        reason=_reason(job.state_reason),
        host=first_node(job.nodelist or ""),
        exit_code=job.exit_code if ended else None,
        signal=(job.exit_code_signal or 0) if ended else 0,
        restarts=job.requeue_count or 0,
    )


def _ended(state: str) -> bool:
    return meaning(state, ()).phase == "ended"


def _reason(said: str | None) -> str:
    return "" if said in {None, "None"} else str(said)
