"""What the controller asks of a batch scheduler, and an agent of a launcher.

A scheduler keeps pilot jobs; when to submit or to cancel one is decided in :mod:`hpcserve.core.deployments`.
Third parties register factories under the entry points ``hpcserve.schedulers`` (called with the
:class:`~hpcserve.config.Site`) and ``hpcserve.launchers`` (called with the site's
:class:`~hpcserve.wire.launch.MpiRules`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType, Protocol, runtime_checkable

from hpcserve.errors import SchedulerError
from hpcserve.types import LossKind, PilotId

JobId = NewType("JobId", str)
"""What the scheduler calls a job. Opaque to everyone else."""

JobPhase = Literal["queued", "running", "suspended", "ended", "unknown"]
"""``unknown``: the scheduler gave no answer about the job. It is never a word for "gone"."""

JobEnd = Literal[
    "completed", "failed", "walltime", "preempted", "node failed", "out of memory", "cancelled", "never started", "?"
]
"""How a job ended, in one word; ``?``: nobody knows. ``never started``: it left the queue without having run."""


OUR_JOBS = "hpcserve-"
"""So the names of all our jobs begin."""
OWN_LOG = ".scheduler"
"""What stands behind the name of a job's log where the scheduler itself writes; see :func:`own_log`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotJob:
    """One pilot job to submit. Its output goes to the file ``log``; it starts in ``directory``.

    ``nodes``: None for as many as the site says. ``single``: it does not begin while another of its name runs.

    What else a job asks for (partition, account, …) is the site's, and the same for all its pilots. ``tag``
    names the service among all those of the user; a job is found again by it and by ``pilot``.
    """

    pilot: PilotId
    tag: str
    argv: tuple[str, ...]
    directory: Path
    log: Path
    walltime_s: float
    nodes: int | None = None
    single: bool = False


def job_name(tag: str, pilot: PilotId) -> str:
    """What a pilot's job is called in a batch scheduler, by which it is found again.

    Letters, digits, ``-`` and ``_``, which all of them take.
    """
    return f"{OUR_JOBS}{tag}-{pilot}"


def own_log(log: Path) -> Path:
    """Where a scheduler that does not write to a job's log says what it has to say of it, often when it has ended."""
    return log.with_name(f"{log.name}{OWN_LOG}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What the scheduler says about one job.

    Attributes:
        phase: Where the job is.
        end: How it ended; None while it has not.
        cause: Why it ended, why it still waits or why nothing is known, in words.
        exit_code: Its exit code, negative for a signal; None when it has not ended or nobody knows.
        host: The node that runs it or ran it, the first of several; the name that the node calls itself.
        restarts: How often the scheduler has put it back into the queue and, if it runs, begun it anew.
        starts_in_s: In so many seconds it will start, the scheduler guesses; None: it makes no guess, or that time
            has passed.
        former_end: How the run before this one ended, if the scheduler tells; None: there was none.
    """

    phase: JobPhase
    end: JobEnd | None = None
    cause: str = ""
    exit_code: int | None = None
    host: str = ""
    restarts: int = 0
    former_end: JobEnd | None = None
    starts_in_s: float | None = None


def unknown(cause: str) -> JobState:
    """A job of which nothing is known, and why."""
    return JobState(phase="unknown", cause=cause)


class Answered(SchedulerError):
    """What was asked for is not to be had; but that was said by somebody who is there, and may be asked again."""


class Scheduler(Protocol):
    """A batch scheduler. Its methods raise SchedulerError when it does not answer."""

    async def submit(self, job: PilotJob) -> JobId:
        """Hands in one job and returns its id.

        Raises:
            JobRefused: It will never be taken.
            NoRoom: It will be taken when a limit allows.
            SubmissionUnknown: It may have been taken.
            SchedulerError: It has not been taken, since the scheduler does not answer.
        """

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        """The state of each of ``jobs``, each of them present. Called every few seconds while jobs live."""

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        """All jobs with this tag that the scheduler still knows; ended ones may be among them."""

    async def cancel(self, job: JobId) -> None:
        """Begins to end a job, kindly first. Not an error for a job that has ended or never was."""

    def retry_now(self) -> None:
        """The next question is asked, also where a scheduler that does not answer is left alone: somebody waits."""

    async def close(self) -> None:
        """Lets go of the scheduler. Jobs go on."""


@runtime_checkable
class Estimator(Protocol):
    """What a scheduler may be able to do beside: to say when a job would start, without submitting it."""

    async def starts_in_s(self, job: PilotJob) -> float | None:
        """In so many seconds, negative if that should have been; None: it does not say."""


@dataclass(frozen=True, slots=True)
class LaunchEnd:
    """How a replica ended, read out of the end of the process that the agent had started for it.

    Attributes:
        exit_code: The replica's own, negative for a signal.
        kind: What the launcher itself said of a loss; empty when it said nothing.
        evidence: The lines in which it did.
        lost_node: Whether nothing can be started on that node any more, or on one of several.
        lost_nodes: Which, where the launcher has said so.
    """

    exit_code: int
    kind: LossKind = ""
    evidence: str = ""
    lost_node: bool = False
    lost_nodes: tuple[str, ...] = ()


LAUNCHER_KILL_S = 10.0
"""So long a launcher may take to have a replica killed that it has started, of several ranks or on another node."""


class Launcher(Protocol):
    """How an agent starts the processes of a replica.

    Attributes:
        elsewhere: The process that the agent starts is not the replica, but stands for one on any node of the job. It
            carries standard input, output and error; a SIGTERM to it kills the replica; its own death need not. So is
            that of a replica of several ranks always; its standard input is the first rank's.
        dies_whole: All ranks of a replica are killed with the process that stands for them. So that one is killed
            where the agent itself has been.
    """

    elsewhere: bool
    dies_whole: bool

    def command(self, argv: tuple[str, ...], node: str) -> tuple[str, ...]:
        """The command that runs ``argv`` as a replica on a node of the job, which is its own unless ``elsewhere``."""

    def group(self, argv: tuple[str, ...], nodes: tuple[str, ...], per_node: int) -> tuple[str, ...]:
        """The command that runs ``argv`` as the MPI ranks of a replica, so many on each of these nodes of the job.

        The ranks are in blocks, in the order of the nodes, which is that of the job. When one ends badly, all end.
        """

    def ended(self, exit_code: int, output: str) -> LaunchEnd:
        """How the replica ended: from its process's exit code, negative for a signal, and the end of its log."""
