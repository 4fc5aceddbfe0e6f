"""Slurm by pyslurm, which lives in a helper process: asking never blocks the loop, and no crash of it reaches us.

A helper that dies, hangs or talks nonsense is killed and another is started, at once the first time and after growing
pauses if that one fares no better. Meanwhile the answer is an error, so that nothing is known and nothing is concluded.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping

from hpcserve.cluster.pyslurm_messages import (
    ANSWERED,
    NO_ACCOUNTING,
    Cancel,
    Done,
    Failed,
    History,
    Ping,
    Queue,
    Request,
    Submit,
    Submitted,
    Told,
)
from hpcserve.cluster.pyslurm_process import A, Broken, HelperProcess
from hpcserve.cluster.runner import cleaned
from hpcserve.cluster.seam import Answered, JobId
from hpcserve.cluster.slurm_errno import PROTOCOL_VERSION
from hpcserve.cluster.slurm_jobs import NoAccounting, SlurmJob
from hpcserve.errors import BY_CODE, HpcserveError, SchedulerError, SubmissionUnknown

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0

_ERRORS: dict[str, type[HpcserveError]] = {**BY_CODE, NO_ACCOUNTING: NoAccounting, ANSWERED: Answered}


async def usable(timeout_s: float) -> str:
    """Why this transport cannot be used here, in words; empty where it can.

    It can where pyslurm imports and takes the site's ``slurm.conf``, and slurmctld understands it. A slurmctld that is
    down says nothing against it: the commands would not reach that either.
    """
    try:
        helper = await HelperProcess.start(timeout_s=timeout_s)
    except SchedulerError as error:
        return error.message
    try:
        answer = await helper.ask(Ping(), Done)
    except Broken as broken:
        return "" if broken.hung else f"pyslurm cannot be used: {broken}"
    await helper.end()
    if isinstance(answer, Failed) and answer.errno == PROTOCOL_VERSION:
        return f"pyslurm is of another release than slurmctld: {answer.message}"
    return ""


class PyslurmTransport:
    """A :class:`~hpcserve.cluster.slurm_jobs.Transport`. Serves one call after the other.

    Args:
        timeout_s: A helper that has not answered after so long is killed.
        environment: What jobs inherit where their scripts do not say otherwise; by default that of this process.
    """

    def __init__(self, *, timeout_s: float, environment: Mapping[str, str] | None = None) -> None:
        self._timeout_s = timeout_s
        self._environment = _writable(cleaned(os.environ if environment is None else environment))
        self._lock = asyncio.Lock()
        self._helper: HelperProcess | None = None
        self._pause_s = 0.0
        self._not_before = 0.0
        self._reason = ""

    async def submit(self, script: str) -> JobId:
        """Hands in a job script.

        Raises:
            JobRefused: Slurm will never take it, or an option of it cannot be given to pyslurm.
            NoRoom: A limit is reached.
            SubmissionUnknown: The helper was lost before it answered.
            SchedulerError: It was not taken.
        """
        return (
            await self._ask(Submit(script=script, environment=self._environment), Submitted, lost=SubmissionUnknown)
        ).job

    async def queue(self) -> Collection[SlurmJob]:
        """All jobs of this user that slurmctld still knows.

        Raises:
            SchedulerError: Slurm did not tell.
        """
        return (await self._ask(Queue(), Told)).jobs

    async def history(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """What accounting has of ``jobs``; those that it does not know are left out.

        Raises:
            NoAccounting: There is none here.
            SchedulerError: It did not tell.
        """
        return (await self._ask(History(jobs=tuple(jobs)), Told)).jobs

    async def runs(self, _jobs: Collection[JobId]) -> Collection[SlurmJob]:
        """None: pyslurm 25.11 tells of the last run alone."""
        return ()

    async def cancel(self, job: JobId) -> None:
        """Ends a job; nothing happens to one that has ended or never was.

        Raises:
            Answered: It is another user's job, or slurmctld does not end it for another reason.
            SchedulerError: Slurm did not answer.
        """
        await self._ask(Cancel(job=job), Done)

    async def close(self) -> None:
        """Ends the helper."""
        async with self._lock:
            await self._drop()

    async def _ask(self, request: Request, expected: type[A], *, lost: type[SchedulerError] = SchedulerError) -> A:
        async with self._lock:
            helper = await self._running()
            try:
                answer = await helper.ask(request, expected)
            except Broken as broken:
                self._helper = None
                self._later(str(broken))
                raise lost(f"pyslurm was lost while it was asked: {broken}") from broken
            except asyncio.CancelledError:
                await self._drop()
                raise
        self._pause_s = 0.0
        if isinstance(answer, Failed):
            raise _ERRORS[answer.code](answer.message)
        return answer

    async def _running(self) -> HelperProcess:
        if self._helper is None:
            wait_s = self._not_before - asyncio.get_running_loop().time()
            if wait_s > 0:
                raise SchedulerError(f"{self._reason}; pyslurm is started again in {wait_s:.1f} s")
            try:
                self._helper = await HelperProcess.start(timeout_s=self._timeout_s)
            except SchedulerError as error:
                self._later(error.message)
                raise
        return self._helper

    def _later(self, reason: str) -> None:
        """No other helper is started for a while: not at all after the first failure, then for longer and longer."""
        self._reason = reason
        self._not_before = asyncio.get_running_loop().time() + self._pause_s
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    async def _drop(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            await helper.end()


def _writable(environment: Mapping[str, str]) -> dict[str, str]:
    """Less what is no UTF-8, in which both the messages and pyslurm write it."""

    def is_text(value: str) -> bool:
        return not any("\ud800" <= each <= "\udfff" for each in value)

    return {name: value for name, value in environment.items() if is_text(name) and is_text(value)}
