"""When Slurm would start a job: ``sbatch --test-only``, which submits nothing. Source: sbatch(1).

The answer comes on standard error: ``sbatch: Job 14 to start at 2026-11-24T00:06:31 using 1 processors on …``, in the
time zone of whoever asks. A job that cannot start is refused; why, its submission will tell. A slurmctld that does not
answer is not there for the submission either, so that is no mere lack of a guess.
"""

from __future__ import annotations

import re
from datetime import datetime

from hpcserve.cluster.runner import Runner, failure
from hpcserve.cluster.slurm_refusals import refusal
from hpcserve.errors import JobRefused, NoRoom

_STARTS = re.compile(r"\bto start at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\b")


class SlurmEstimate:
    """Asks Slurm when a script's job would start.

    Args:
        runner: Runs the commands.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def starts_at(self, script: str) -> float | None:
        """When the script's job would start, in seconds since 1970; None: Slurm does not say.

        Raises:
            SchedulerError: Slurm does not answer.
        """
        answer = await self._runner.run("sbatch", "--test-only", stdin=script.encode(), submits=True)
        if answer.exit_code != 0 and not isinstance(refusal(answer), JobRefused | NoRoom):
            raise failure(answer)
        return parsed(answer.stderr)


def parsed(told: str) -> float | None:
    """The time in what ``sbatch --test-only`` says; None where there is none."""
    found = _STARTS.search(told)
    try:
        return None if found is None else datetime.fromisoformat(found[1]).astimezone().timestamp()
    except (ValueError, OverflowError):
        return None
