"""Scheduler ``slurm``: pilot jobs in a Slurm cluster. Decides what Slurm's words about a job mean for hpcserve.

The rules, so that no job is taken for ended that may still live:

* squeue, which asks slurmctld, is believed before sacct: just after a requeue 22.05's accounting tells of the last run
  as if it were the end.
* A job that slurmctld does not know any more has ended when accounting has its end. While accounting does not answer,
  nothing is known.
* If accounting answers well and has no end for it, a job is over, nobody knows how, when several good answers of
  slurmctld in a row lack it, over a minute: slurmctld, killed before it had saved its state, has lost it for good.
* Where there is no accounting at all, it is over when several good answers in a row lack it.
* An answer that is no answer raises; it never looks like an answer without jobs.
* Who gave no answer is left alone for a while: slurmctld, accounting, the taking of jobs and their deletion each for
  itself. That slurmctld does not end one job is an answer.

How Slurm is asked, by commands or by pyslurm, is the transport's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from hpcserve.cluster import slurm_reasons, slurm_states
from hpcserve.cluster.job_watch import GONE_AFTER, Watch
from hpcserve.cluster.patience import Parts
from hpcserve.cluster.seam import JobEnd, JobId, JobState, PilotJob, job_name, unknown
from hpcserve.cluster.slurm_jobs import NoAccounting, SlurmJob, Transport
from hpcserve.errors import SchedulerError
from hpcserve.types import PilotId

_log = logging.getLogger(__name__)

# A state's exit code tells of the job's own script only where the script itself ended the job.
_ENDS_OF_ITS_OWN = frozenset({"completed", "failed", "out of memory"})


class SlurmScheduler:
    """Pilot jobs of one user in Slurm.

    Args:
        transport: How Slurm is asked.
        render: Makes the job script from the job and its name in Slurm.
        clock: Seconds, on a clock that is never set back.
        poll_s: A part of Slurm that gave no answer is left alone for so long at first, in seconds. How often one that
            answers is asked, whoever asks decides: :mod:`hpcserve.core.polling`.
        poll_max_s: And for no longer, however often it gave none.
        estimate: When a script's job would start, in seconds since 1970; None: nobody is asked.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        render: Callable[[PilotJob, str], str],
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = 1.0,
        estimate: Callable[[str], Awaitable[float | None]] | None = None,
        poll_max_s: float = 120.0,
    ) -> None:
        self._transport = transport
        self._render = render
        self._clock = clock
        self._estimate = estimate
        self._watch = Watch()
        self._asking = asyncio.Lock()
        self._parts = Parts(least_s=poll_s, most_s=poll_max_s, clock=clock)
        part = self._parts.part
        self._controller, self._submission, self._accounting, self._deletion = part(), part(), part(), part()
        self._takes_jobs = True

    async def submit(self, job: PilotJob) -> JobId:
        """Submits the job's script. The name in it is what :meth:`find` looks for."""
        self._controller.check()
        script = self._render(job, job_name(job.tag, job.pilot))
        try:
            return await self._submission.ask(lambda: self._transport.submit(script))
        finally:
            self._takes_jobs = self._submission.is_free

    async def starts_in_s(self, job: PilotJob) -> float | None:
        """When the job would start. It is asked where jobs are submitted, and left alone as that is.

        After no answer the next question is a submission: where only the guess hangs, jobs are submitted without it.
        """
        estimate = self._estimate
        is_there = self._takes_jobs and self._submission.is_free and self._controller.is_free
        if estimate is None or not is_there:
            return None
        script = self._render(job, job_name(job.tag, job.pilot))
        try:
            at_s = await self._submission.ask(lambda: estimate(script))
        except SchedulerError as error:
            _log.warning("it is not known when pilot %s would start: %s", job.pilot, error)
            self._takes_jobs = False
            return None
        return None if at_s is None else at_s - time.time()

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        """One question to slurmctld, and one to accounting where slurmctld has forgotten a job or requeued one.

        One poll after the other: an older answer must not undo a later one, nor a job be told of as requeued before
        accounting was asked about it.
        """
        if not jobs:
            return {}
        async with self._asking:
            return await self._poll(jobs)

    async def _poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        self._watch.asked(jobs, self._clock())
        queue = {job.job: job for job in await self._controller.ask(self._transport.queue)}
        known = {name: state_of(queue[name]) for name in jobs if name in queue}
        requeued = self._watch.told(jobs, known, self._clock())
        if requeued:
            await self._learn_former_ends(requeued)
        missing = [name for name in jobs if name not in queue]
        told = {name: self._with_former_end(name, state) for name, state in known.items()}
        return told | (await self._missing_states(missing) if missing else {})

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        """All jobs with this tag in slurmctld: the living, and those that ended within its MinJobAge."""
        prefix = job_name(tag, PilotId(""))
        async with self._asking:
            queue = await self._controller.ask(self._transport.queue)
        return {job.job: PilotId(job.name.removeprefix(prefix)) for job in queue if job.name.startswith(prefix)}

    async def cancel(self, job: JobId) -> None:
        """SIGTERM to the job's processes; Slurm's KillWait later SIGKILL."""
        self._controller.check()
        await self._deletion.ask(lambda: self._transport.cancel(job))

    def retry_now(self) -> None:
        """The next question is asked, however long Slurm would be left alone yet."""
        self._parts.end()

    async def close(self) -> None:
        """Closes the transport."""
        await self._transport.close()

    async def _learn_former_ends(self, requeued: Collection[JobId]) -> None:
        """Asks accounting once: the controller hears of a requeue once, too."""
        try:
            runs = await self._accounting.ask(lambda: self._transport.runs(requeued))
        except SchedulerError:
            runs = ()  # the controller has the job's own output to go by
        for name in requeued:
            own = [run for run in runs if run.job == name]
            self._watch[name].former_end = former_end(own, self._watch[name].restarts)

    def _with_former_end(self, name: JobId, state: JobState) -> JobState:
        return dataclasses.replace(state, former_end=self._watch[name].former_end)

    async def _missing_states(self, missing: Collection[JobId]) -> dict[JobId, JobState]:
        try:
            history = await self._accounting.ask(lambda: self._transport.history(missing))
        except NoAccounting as error:
            return {name: self._without_accounting(name, error) for name in missing}
        except SchedulerError as error:
            self._watch.accounting_is_silent(missing, self._clock())
            return {name: unknown(f"slurmctld has forgotten job {name}, and {error}") for name in missing}
        past = {job.job: job for job in history}
        return {name: self._past_state(name, past.get(name)) for name in missing}

    def _without_accounting(self, name: JobId, error: NoAccounting) -> JobState:
        if self._watch[name].missed < GONE_AFTER:
            return unknown(f"slurmctld does not know job {name}, and {error}")
        cause = f"slurmctld has forgotten job {name}, and this Slurm keeps no accounting that tells how it ended"
        return self._lost(name, "?", cause, host=self._watch[name].host)

    def _past_state(self, name: JobId, job: SlurmJob | None) -> JobState:
        if job is None:
            return self._without_end(name, None, "neither slurmctld nor accounting knows it")
        state = state_of(job)
        if state.phase != "ended":
            return self._without_end(name, job, f"slurmctld does not know it, and accounting has it as {job.state}")
        # Not every release's accounting tells of each restart.
        return dataclasses.replace(state, restarts=max(state.restarts, self._watch[name].restarts))

    def _without_end(self, name: JobId, job: SlurmJob | None, told: str) -> JobState:
        if not self._watch.is_lost(name, self._clock()):
            return unknown(f"job {name}: {told}; accounting may lag")
        host = self._watch[name].host or ("" if job is None else job.host)
        never_ran = not host and (job is not None or self._watch[name].seen)
        cause = f"job {name} is lost: {told}; slurmctld was ended before it had saved its state, it seems"
        return self._lost(name, "never started" if never_ran else "?", cause, host=host)

    def _lost(self, name: JobId, end: JobEnd, cause: str, *, host: str) -> JobState:
        return JobState(phase="ended", end=end, cause=cause, host=host, restarts=self._watch[name].restarts)


def former_end(runs: Collection[SlurmJob], restarts: int) -> JobEnd | None:
    """How the run before the present one ended; None while accounting does not have that.

    Args:
        runs: Of one job, in their order. Just after a requeue some releases have the present one, and some do not.
        restarts: How often slurmctld has requeued it.
    """
    before = list(runs)[restarts - 1 : restarts]
    return state_of(before[0]).end if before else None


def state_of(job: SlurmJob) -> JobState:
    """What Slurm's words about a job say."""
    meant = slurm_states.meaning(job.state, job.flags)
    ended = meant.phase == "ended"
    end = "never started" if meant.end == "failed" and not job.host else meant.end
    return JobState(
        phase=meant.phase,
        end=end,
        cause=_cause(job, meant.words, ended=ended),
        exit_code=_exit_code(job) if end in _ENDS_OF_ITS_OWN else None,
        host=job.host if meant.phase != "queued" else "",
        restarts=job.restarts,
        starts_in_s=job.starts_in_s if meant.phase == "queued" and not _is_held(job) else None,
    )


def _exit_code(job: SlurmJob) -> int | None:
    if job.signal == slurm_reasons.NO_OUTPUT_SIGNAL:
        return None  # no script ran
    return -job.signal if job.signal else job.exit_code


def _is_held(job: SlurmJob) -> bool:
    """Slurm's guess for a job that is held is the present moment."""
    return slurm_reasons.is_held(job.reason) or any(flag in slurm_states.HELD for flag in (job.state, *job.flags))


def _cause(job: SlurmJob, words: str, *, ended: bool) -> str:
    reason = slurm_reasons.in_words(job.reason, killed_by=job.signal)
    if words and f": {words}" in reason:
        words = ""  # that of the state and that of the reason are one
    told = [f"{_shown(job)}: {words}" if words else _shown(job)] if words or ended else []
    if reason:
        told.append(reason)
    if ended and job.signal == slurm_reasons.NO_OUTPUT_SIGNAL:
        told.append(
            "its output file could not be opened on the node: the node does not see shared_dir, or `logs` in it was "
            "removed while the job was queued"
        )
    if ended and not job.host:
        told.append("it never ran")
    return "; ".join(told)


def _shown(job: SlurmJob) -> str:
    return " ".join([job.state, *sorted(job.flags)])
