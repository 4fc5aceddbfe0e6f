"""What is said between :mod:`hpcserve.cluster.slurm_pyslurm` and its helper process: JSON, one message a line.

The helper speaks first: :class:`Ready`, or :class:`Failed` and its end. After that each request has one answer.
"""

from __future__ import annotations

import msgspec

from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import SlurmJob

NO_ACCOUNTING = "no_accounting"
"""In the place of an error's code: :class:`~hpcserve.cluster.slurm_jobs.NoAccounting`."""

ANSWERED = "answered"
"""The same for :class:`~hpcserve.cluster.seam.Answered`: slurmctld is there, and does not do it."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag=str.lower):
    """Base of all."""


class Ping(Message, frozen=True):
    """Does slurmctld answer? The answer is :class:`Done`."""


class Submit(Message, frozen=True):
    """Hand in this job script; the job inherits ``environment``. The answer is :class:`Submitted`."""

    script: str
    environment: dict[str, str]


class Queue(Message, frozen=True):
    """What does slurmctld know? The answer is :class:`Told`."""


class History(Message, frozen=True):
    """What does accounting know of these? The answer is :class:`Told`."""

    jobs: tuple[JobId, ...]


class Cancel(Message, frozen=True):
    """End this job. The answer is :class:`Done`."""

    job: JobId


Request = Ping | Submit | Queue | History | Cancel


class Ready(Message, frozen=True):
    """pyslurm, of this release, has read Slurm's configuration."""

    release: str


class Done(Message, frozen=True):
    """It is done."""


class Submitted(Message, frozen=True):
    """The job was taken."""

    job: JobId


class Told(Message, frozen=True):
    """The jobs that were asked for."""

    jobs: tuple[SlurmJob, ...]


class Failed(Message, frozen=True):
    """It went wrong.

    Attributes:
        code: Names the class of :mod:`hpcserve.errors`, or is ``NO_ACCOUNTING``.
        message: What went wrong, and what to do.
        errno: Slurm's number for it, or 0.
    """

    code: str
    message: str
    errno: int = 0


Answer = Ready | Done | Submitted | Told | Failed
