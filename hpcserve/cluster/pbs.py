"""Scheduler ``pbs``: pilot jobs in PBS Pro or OpenPBS. Decides what PBS's words about a job mean for hpcserve.

The rules, so that no job is taken for ended that may still live, and none for a success that nobody has seen:

* A job has ended where PBS says state F and tells how; :mod:`hpcserve.cluster.pbs_states` reads it. State E is not an
  end: what follows is an end or the queue again, and its nodes are not free.
* A job that PBS does not know any more is over when several good answers in a row, over a quarter of a minute, name it
  as unknown; where PBS keeps history, which makes that strange, over a minute. Nobody knows how it ended: its history
  is switched off, has expired or was deleted with it (``qdel -x``). What its agent said before it left is the
  controller's to remember.
* A job that an answer is silent about is not gone: it is unknown. Where PBS answers, and says of a job for a minute
  nothing that can be used, the job is deleted and given up (:mod:`hpcserve.cluster.pbs_doubts`), as nothing else would
  end that.
* A job that has been given the number of one of ours, but another owner or name, is none of ours, and is not deleted.
* Who gave no answer is left alone for a while: the server, the taking of jobs and their deletion each for itself. That
  PBS does not end one job is an answer.

PBS cannot be asked when a job would start that it does not have, so this is no Estimator; of one that waits it may say.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime

from hpcserve.cluster import pbs_shell, pbs_states
from hpcserve.cluster.job_watch import Watch
from hpcserve.cluster.patience import Parts
from hpcserve.cluster.pbs_commands import PbsCommands
from hpcserve.cluster.pbs_doubts import Doubts
from hpcserve.cluster.pbs_json import PbsJob, id_parts
from hpcserve.cluster.pbs_refusals import Gone
from hpcserve.cluster.seam import OUR_JOBS, JobId, JobState, PilotJob, job_name, unknown
from hpcserve.errors import SchedulerError
from hpcserve.types import PilotId

_log = logging.getLogger(__name__)

_ESTIMATES_EVERY_S = 300.0
_TRIES = 3
GONE_WITHOUT_HISTORY_S = 15.0
"""A job that PBS names as unknown for so long is over where no history is kept. Who has just begun may not know it."""


class PbsScheduler:
    """Pilot jobs of one user in PBS.

    Args:
        commands: How PBS is asked.
        user: Whose jobs they are.
        render: Makes the job script from the job, its name in PBS and the jobs that it comes after.
        clock: Seconds, on a clock that is never set back.
        poll_s: A part of PBS that gave no answer is left alone for so long at first, in seconds.
        poll_max_s: And for no longer, however often it gave none.
    """

    def __init__(
        self,
        commands: PbsCommands,
        *,
        user: str,
        render: Callable[[PilotJob, str, Collection[JobId]], str],
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = 1.0,
        poll_max_s: float = 120.0,
    ) -> None:
        self._commands = commands
        self._user = user
        self._render = render
        self._clock = clock
        self._watch = Watch()
        self._doubts = Doubts()
        self._asking = asyncio.Lock()
        self._parts = Parts(least_s=poll_s, most_s=poll_max_s, clock=clock)
        self._server, self._submission, self._deletion = (self._parts.part() for _ in range(3))
        self._strangers: set[JobId] = set()
        self._estimates: dict[str, float] = {}
        self._estimated_s = float("-inf")

    async def submit(self, job: PilotJob) -> JobId:
        """Submits the job's script. The name in it is what :meth:`find` looks for."""
        self._server.check()
        name = job_name(job.tag, job.pilot)
        if job.single:
            return await self._submission.ask(lambda: self._submit_single(job, name))
        script = await self._script(job, name)
        return await self._submission.ask(lambda: self._commands.submit(script))

    async def _submit_single(self, job: PilotJob, name: str) -> JobId:
        for _ in range(_TRIES):  # PBS has no word for it but to name those that it comes after, if they are there yet
            others = (await self.find(job.tag)).items()
            after = sorted(other for other, pilot in others if pilot == job.pilot)
            with contextlib.suppress(Gone):
                return await self._commands.submit(await self._script(job, name, after))
        raise SchedulerError(f"the jobs of the name {name} end as fast as they are found; it will be submitted again")

    async def _script(self, job: PilotJob, name: str, after: Collection[JobId] = ()) -> str:
        """The job's script; the shell that it names is there, unless that is one of the site's."""
        script = self._render(job, name, after)
        if pbs_shell.is_named(job.directory, script):
            await asyncio.to_thread(pbs_shell.lay_down, job.directory)
        return script

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        """One question for all of them, where PBS's release answers it in full. One poll after the other."""
        if not jobs:
            return {}
        async with self._asking:
            return await self._poll(jobs)

    async def _poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        self._watch.asked(jobs, self._clock())
        try:
            told = await self._server.ask(lambda: self._commands.jobs(jobs))
        except SchedulerError:
            self._doubts.silence(jobs)
            raise
        strangers = {name for name, job in told.jobs.items() if self._is_strange(name, job)}
        self._strangers = self._strangers - set(jobs) | strangers
        known = {name: state_of(job) for name, job in told.jobs.items() if name not in strangers}
        gone = told.absent | strangers
        now_s = self._clock()
        self._watch.told([*known, *gone], known, now_s)
        for name in [name for name in known if pbs_states.is_given_up(told.jobs[name])]:
            known[name] = await self._never_started(name, known[name])
        await self._add_estimates(known)
        silent = {name: unknown(f"job {name}: {why}") for name, why in told.silent.items()}
        doubtful = {name: state for name, state in (known | silent).items() if state.phase == "unknown"}
        self._doubts.told(jobs, doubtful, now_s)
        return {
            **known,
            **silent,
            **{name: await self._without_use(name, state, now_s) for name, state in doubtful.items()},
            **{name: self._gone(name, now_s, strange=name in strangers) for name in gone},
        }

    async def _never_started(self, name: JobId, state: JobState) -> JobState:
        """A job that PBS itself does not try to begin any more is deleted: another one may be luckier."""
        try:
            await self._delete(name)
        except SchedulerError as error:
            return dataclasses.replace(state, cause=f"{state.cause}; it is to be deleted: {error}")
        return JobState(phase="ended", end="never started", cause=f"{state.cause}; hpcserve has deleted job {name}")

    async def _without_use(self, name: JobId, state: JobState, now_s: float) -> JobState:
        """A job of which nothing that can be used is known: it is waited for, then deleted, then over."""
        step = self._doubts.step(name, now_s)
        if step == "delete":
            try:
                await self._delete(name)
            except SchedulerError as error:
                return dataclasses.replace(state, cause=f"{state.cause}; it is to be deleted: {error}")
            self._doubts.deleted(name)
        elif step == "wait":
            return state
        _log.warning("job %s is given up: %s", name, state.cause)
        watched = self._watch[name]
        is_ours = self._doubts.is_deleted(name)
        given_up = f"job {name} is given up, though it could not be deleted"
        became = f"hpcserve has deleted job {name}" if is_ours else given_up
        cause = f"{became}, since PBS said nothing of it that can be used: {state.cause}"
        return JobState(phase="ended", end="?", cause=cause, host=watched.host, restarts=watched.restarts)

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        """All jobs with this tag that wait or run."""
        prefix = job_name(tag, PilotId(""))
        async with self._asking:
            found = await self._server.ask(lambda: self._commands.own(prefix))
        return {name: PilotId(called.removeprefix(prefix)) for name, called in found.items()}

    async def cancel(self, job: JobId) -> None:
        """SIGTERM to the job's processes; PBS's ``kill_delay`` later SIGKILL."""
        self._server.check()
        if job not in self._strangers:
            await self._delete(job)

    async def _delete(self, job: JobId) -> None:
        await self._deletion.ask(lambda: self._commands.cancel(job))

    def retry_now(self) -> None:
        """The next question is asked, however long PBS would be left alone yet."""
        self._parts.end()

    async def close(self) -> None:
        """Nothing is held open."""

    def _is_strange(self, name: JobId, job: PbsJob) -> bool:
        """Numbers begin again at 0 after the site's highest one; then a job may be another one, of anybody."""
        watched = self._watch[name]
        if job.name and job.owner == self._user and job.name.startswith(OUR_JOBS):
            watched.called = watched.called or job.name
        is_ours = job.name == watched.called if watched.called else job.name.startswith(OUR_JOBS)
        return bool(job.owner and job.owner != self._user) or bool(job.name and not is_ours)

    def _gone(self, name: JobId, now_s: float, *, strange: bool) -> JobState:
        told = "its number is now another's" if strange else "PBS does not know it any more"
        is_usual = not self._commands.has_history
        if not self._watch.is_lost(name, now_s, *([GONE_WITHOUT_HISTORY_S] if is_usual else [])):
            return unknown(f"job {name}: {told}")
        history = "; this PBS keeps no history of jobs that have ended" if is_usual else ""
        watched = self._watch[name]
        return JobState(
            phase="ended",
            end="?",
            cause=f"job {name} is over: {told}, and has not told how it ended{history}",
            host=watched.host,
            restarts=watched.restarts,
        )

    async def _add_estimates(self, known: dict[JobId, JobState]) -> None:
        """From ``qstat -T``, seldom, for jobs of which PBS has told no time."""
        waiting = [name for name, state in known.items() if state.phase == "queued" and state.starts_in_s is None]
        now_s = self._clock()
        if waiting and now_s >= self._estimated_s + _ESTIMATES_EVERY_S:
            self._estimated_s = now_s
            try:
                found = await self._commands.estimates(waiting, datetime.now().astimezone())
            except SchedulerError as error:
                _log.info("it is not known when jobs would start: %s", error)
                found = {}
            self._estimates = {number: now_s + in_s for number, in_s in found.items()}
        for name in waiting:
            at_s = self._estimates.get(id_parts(name)[0])
            if at_s is not None and at_s >= now_s:
                known[name] = dataclasses.replace(known[name], starts_in_s=at_s - now_s)


def state_of(job: PbsJob) -> JobState:
    """What PBS's words about a job say."""
    meant = pbs_states.meaning(job)
    waits = meant.phase == "queued"
    return JobState(
        phase=meant.phase,
        end=meant.end,
        cause=_cause(job, meant),
        exit_code=meant.exit_code,
        host=job.hosts[0] if job.hosts and not waits else "",
        restarts=pbs_states.restarts(job),
        former_end=pbs_states.former_end(job) if waits else None,
        starts_in_s=job.starts_in_s if waits and job.state == "Q" else None,
    )


def _cause(job: PbsJob, meant: pbs_states.Meaning) -> str:
    if meant.phase == "unknown":
        return meant.words
    told = [meant.words] if meant.words else []
    if job.comment and meant.phase != "running":
        told.append(f"PBS says: {job.comment}")
    return "; ".join(told)
