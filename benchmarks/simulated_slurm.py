"""A Slurm in memory, in whatever time the program lives, which counts what it is asked.

It is asked by commands, of which it stands in for the runner, or by pyslurm, of which it stands in for the transport. A
slurmctld that is away refuses at once: that is when most could be asked of it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from hpcserve.cluster.runner import Answer, Runner, Unanswered
from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_commands import CommandsTransport
from hpcserve.cluster.slurm_jobs import SlurmJob
from hpcserve.errors import NoRoom, SchedulerError, SubmissionUnknown
from tests.unit.cluster.slurm_stage import record

GUESS = "sbatch --test-only"
GUESSED_S = 1800.0
"""When a job would start, whatever its shape: then most shapes are asked about."""
CONNECT_FAILURE = "Unable to contact slurm controller (connect failure)"
FULL = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
MIN_JOB_AGE_S = 300.0
_NAME = re.compile(r"^#SBATCH --job-name=(\S+)$", re.MULTILINE)


@dataclass
class Job:
    """One job; its times are of the simulation."""

    name: str
    starts_s: float
    ends_s: float = float("inf")
    end: str = "CANCELLED"

    def state(self, now_s: float) -> str:
        """In Slurm's word."""
        if now_s >= self.ends_s:
            return self.end
        return "RUNNING" if now_s >= self.starts_s else "PENDING"


class Slurm:
    """The jobs, the times when slurmctld is away, and whether a limit lets it take no more jobs (``is_full``).

    The next ``lost_answers`` submissions are taken, and nobody is told so.

    Args:
        wait_s: A job waits so long in the queue.
        lives_s: Then it runs so long, if nobody ends it.
    """

    def __init__(self, *, wait_s: float = 60.0, lives_s: float = float("inf")) -> None:
        self.jobs: dict[str, Job] = {}
        self.asked: list[tuple[float, str]] = []
        self.away_s = (float("inf"), float("inf"))
        self.is_full = False
        self.lost_answers = 0
        self._wait_s = wait_s
        self._lives_s = lives_s

    def ask(self, what: str) -> bool:
        """Somebody asks; whether slurmctld is there."""
        now_s = time.monotonic()
        self.asked.append((now_s, what))
        return not self.away_s[0] <= now_s < self.away_s[1]

    def count(self, from_s: float, until_s: float) -> Counter[str]:
        """How often each thing was asked in that time."""
        return Counter(what for at_s, what in self.asked if from_s <= at_s < until_s)

    def submit(self, script: str) -> str:
        """A job's id."""
        found = _NAME.search(script)
        assert found is not None, "each job has a name"
        starts_s = time.monotonic() + self._wait_s
        self.jobs[str(len(self.jobs) + 1)] = Job(found[1], starts_s, starts_s + self._lives_s, "FAILED")
        return str(len(self.jobs))

    def loses_its_answer(self) -> bool:
        """Whether that to a submission is lost; asked once for each."""
        self.lost_answers -= 1
        return self.lost_answers >= 0

    def cancel(self, job: str) -> None:
        """A job ends in two seconds."""
        now_s = time.monotonic()
        if now_s < self.jobs[job].ends_s:
            self.jobs[job].ends_s, self.jobs[job].end = now_s + 2.0, "CANCELLED"

    def known(self) -> dict[str, Job]:
        """What slurmctld has not forgotten."""
        now_s = time.monotonic()
        return {name: job for name, job in self.jobs.items() if now_s < job.ends_s + MIN_JOB_AGE_S}


class CountedCommands(Runner):
    """Runs no command, but answers as Slurm's would."""

    def __init__(self, slurm: Slurm) -> None:
        super().__init__(timeout_s=60.0, environment={})
        self._slurm = slurm

    async def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        submits: bool = False,
    ) -> Answer:
        """One command, counted."""
        slurm = self._slurm
        if argv == tuple(GUESS.split()):
            return self._guess(argv)
        if not slurm.ask(argv[0]) and argv[1:] != ("--version",) and argv[0] != "sacct":
            said = f"{argv[0]}: error: Batch job submission failed: {CONNECT_FAILURE}"
            return Answer(argv=argv, exit_code=1, stdout=b"", stderr=said)
        if argv[0] == "sbatch" and slurm.is_full:
            return Answer(argv=argv, exit_code=1, stdout=b"", stderr=f"sbatch: error: {FULL}")
        answer = self._answer(argv, stdin.decode())
        if argv[0] == "sbatch" and argv[1:] != ("--version",) and slurm.loses_its_answer():
            raise Unanswered("sbatch did not answer")
        return Answer(argv=argv, exit_code=0, stdout=answer, stderr="")

    def _guess(self, argv: tuple[str, ...]) -> Answer:
        is_there = self._slurm.ask(GUESS)
        if not is_there or self._slurm.is_full:
            said = f"allocation failure: {FULL if is_there else CONNECT_FAILURE}"
            return Answer(argv=argv, exit_code=1, stdout=b"", stderr=said)
        at = datetime.fromtimestamp(time.time() + GUESSED_S).isoformat(timespec="seconds")  # noqa: DTZ006  as Slurm does
        said = f"sbatch: Job 7 to start at {at} using 1 processors on nodes node1 in partition batch"
        return Answer(argv=argv, exit_code=0, stdout=b"", stderr=said)

    def _answer(self, argv: tuple[str, ...], script: str) -> bytes:
        slurm, now_s = self._slurm, time.monotonic()
        if argv[1:] == ("--version",):
            return b"slurm 22.05.8\n"
        if argv[0] == "sbatch":
            return slurm.submit(script).encode() + b"\n"
        if argv[0] == "scancel":
            slurm.cancel(argv[1])
            return b""
        if argv[0] == "sacct":
            wanted = argv[-1].removeprefix("--jobs=").split(",")
            return "".join(f"{job}|{slurm.jobs[job].state(now_s)}|0:0|node1\n" for job in wanted).encode()
        return b"".join(record(name, job.state(now_s), "None", name=job.name) for name, job in slurm.known().items())


class CountedPyslurm:
    """A transport as that over pyslurm, whose helper pings slurmctld before each question to it: two calls."""

    def __init__(self, slurm: Slurm) -> None:
        self._slurm = slurm

    async def submit(self, script: str) -> JobId:
        """A job's id."""
        self._ask("submit")
        if self._slurm.is_full:
            raise NoRoom(FULL)
        job = JobId(self._slurm.submit(script))
        if self._slurm.loses_its_answer():
            raise SubmissionUnknown("the helper did not answer")
        return job

    async def queue(self) -> Collection[SlurmJob]:
        """All jobs."""
        self._ask("load jobs")
        return [self._told(name, job) for name, job in self._slurm.known().items()]

    async def history(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """What accounting has."""
        self._slurm.ask("load history")
        return [self._told(name, self._slurm.jobs[name]) for name in jobs]

    async def runs(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """None."""
        return ()

    async def cancel(self, job: JobId) -> None:
        """Ends a job."""
        self._ask("cancel")
        self._slurm.cancel(job)

    async def close(self) -> None:
        """Nothing is open."""

    def _ask(self, what: str) -> None:
        if not self._slurm.ask("ping"):
            raise SchedulerError(f"slurmctld does not answer: {CONNECT_FAILURE}")
        self._slurm.ask(what)

    @staticmethod
    def _told(name: str, job: Job) -> SlurmJob:
        state = job.state(time.monotonic())
        return SlurmJob(job=JobId(name), name=job.name, state=state, host="" if state == "PENDING" else "node1")


def transport(slurm: Slurm, kind: str) -> CommandsTransport | CountedPyslurm:
    """``commands`` or ``pyslurm``."""
    return CommandsTransport(CountedCommands(slurm)) if kind == "commands" else CountedPyslurm(slurm)
