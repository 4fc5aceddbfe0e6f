"""Slurm by its commands: which are run, with which words, and which answer is an error.

squeue and sacct are asked for JSON from 23.11 on: half an answer is then none, clocks of two machines do not mix, and
flags stand beside the state that they would hide. Before, ``squeue --json`` tells of everybody's jobs whatever it was
asked, so text is asked for, as it is where Slurm was built without JSON.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection

from hpcserve.cluster import slurm_json, slurm_text
from hpcserve.cluster.runner import Answer, Runner, failure
from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import NoAccounting, SlurmJob
from hpcserve.cluster.slurm_refusals import not_cancelled, refusal
from hpcserve.cluster.submission import submitted
from hpcserve.errors import SchedulerError

# 22.05 ignores all filters with --json; from 23.11 on a state is a list, and last_update tells slurmctld's time.
_JSON_SINCE = (23, 11)
_VERSION = re.compile(r"(\d+)\.(\d+)")
_NO_JSON = re.compile(r"json|serializer|data_parser|data parser", re.IGNORECASE)
# With words: of a wrapper of sbatch that does not pass --parsable on.
_SUBMITTED = re.compile(r"(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?")
_NO_ACCOUNTING = "accounting storage is disabled"
# A job that is over or was never there: nothing to cancel.
_NOTHING_TO_CANCEL = ("Invalid job id specified", "already completing or completed", "Job has already finished")

QUEUE = ("squeue", "--me", "--all", "--states=all")
QUEUE_TEXT = (*QUEUE, "--noheader", f"--Format={slurm_text.QUEUE_FORMAT}")
QUEUE_JSON = (*QUEUE, "--json")
HISTORY_TEXT = (
    "sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", f"--format={slurm_text.HISTORY_FORMAT}"
)  # fmt: skip
HISTORY_JSON = ("sacct", "--json")


class CommandsTransport:
    """A :class:`~hpcserve.cluster.slurm_jobs.Transport` over sbatch, squeue, sacct and scancel.

    Args:
        runner: Runs the commands.
        wall_clock: Seconds since 1970, as squeue on this machine has them.
    """

    def __init__(self, runner: Runner, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._runner = runner
        self._wall_clock = wall_clock
        self._json: bool | None = None

    async def submit(self, script: str) -> JobId:
        """``sbatch --parsable``, with the script on its standard input."""
        # The job inherits the environment. sbatch itself never calls setlocale(3), so its errors stay English.
        return await submitted(self._runner, ("sbatch", "--parsable"), script, id_of=_SUBMITTED, refusal=refusal)

    async def queue(self) -> Collection[SlurmJob]:
        """``squeue``, one question for all jobs of this user, in all states."""
        if await self._speaks_json():
            answer = await self._runner.run(*QUEUE_JSON)
            if answer.exit_code == 0:
                return slurm_json.parse_queue(answer.stdout)
            self._give_json_up(answer)
        answer = await self._runner.run(*QUEUE_TEXT, environment=slurm_text.TIME_FORMAT)
        if answer.exit_code != 0:
            raise failure(answer)
        return slurm_text.parse_queue(answer.stdout, now_s=self._wall_clock())

    async def history(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """``sacct``, one question for all of ``jobs``."""
        wanted = f"--jobs={','.join(sorted(jobs))}"
        if await self._speaks_json():
            answer = await self._runner.run(*HISTORY_JSON, wanted)
            if answer.exit_code == 0:
                return slurm_json.parse_history(answer.stdout)
            if not _says(answer, _NO_ACCOUNTING):
                self._give_json_up(answer)
        return slurm_text.parse_history(await self._history_text(wanted))

    async def runs(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """``sacct --duplicates``, as text, which all releases have, one line a run."""
        return slurm_text.parse_runs(await self._history_text(f"--jobs={','.join(sorted(jobs))}"))

    async def cancel(self, job: JobId) -> None:
        """``scancel``: SIGTERM to all of the job, SIGKILL after Slurm's KillWait.

        Raises:
            Answered: Slurm does not end this job.
            SchedulerError: It does not answer.
        """
        answer = await self._runner.run("scancel", str(job))
        if answer.exit_code != 0 and not any(_says(answer, text) for text in _NOTHING_TO_CANCEL):
            raise not_cancelled(answer)

    async def close(self) -> None:
        """Nothing is held open."""

    async def _history_text(self, wanted: str) -> bytes:
        answer = await self._runner.run(*HISTORY_TEXT, wanted)
        if answer.exit_code != 0:
            raise NoAccounting(str(failure(answer))) if _says(answer, _NO_ACCOUNTING) else failure(answer)
        return answer.stdout

    async def _speaks_json(self) -> bool:
        if self._json is None:
            answer = await self._runner.run("squeue", "--version")
            said = answer.stdout.decode(errors="replace")
            found = _VERSION.search(said)
            if answer.exit_code != 0 or found is None:
                raise SchedulerError(
                    f"squeue --version ended with exit code {answer.exit_code} and printed {said[:200]!r}; is the "
                    "squeue that PATH finds that of Slurm?"
                )
            self._json = (int(found[1]), int(found[2])) >= _JSON_SINCE
        return self._json

    def _give_json_up(self, answer: Answer) -> None:
        """From now on text, where the error is that there is no JSON; any other is raised."""
        if not _NO_JSON.search(answer.stderr):
            raise failure(answer)
        self._json = False


def _says(answer: Answer, text: str) -> bool:
    return text in answer.stderr or text in answer.stdout.decode(errors="replace")
