"""The pilot jobs at the scheduler: submitting, enrolling, polling, cancelling.

How many there should be is decided in :mod:`hpcserve.core.deployments`. A pilot's intent is on disk before
it is submitted (design §6), and a restarted controller finds its jobs again by their tag.
Who is let in, and by what, stands in :mod:`hpcserve.daemon.controller.enrolments`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import msgspec

from hpcserve.cluster.seam import JobId, JobState, PilotJob, Scheduler
from hpcserve.config import Site
from hpcserve.core.spans import counted, span
from hpcserve.daemon.controller import enrolments
from hpcserve.daemon.controller.hosts import Hosts
from hpcserve.daemon.controller.job import pilot_job, service_tag
from hpcserve.daemon.controller.jobs import Job
from hpcserve.daemon.controller.printed import printed
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import (
    AuthenticationError,
    HpcserveError,
    SchedulerError,
    ServiceUnavailable,
    SubmissionUnknown,
)
from hpcserve.registry.rows import PilotRow
from hpcserve.registry.store import Store
from hpcserve.types import PilotId

_log = logging.getLogger(__name__)

LIVE = ("submitting", "submitted", "enrolled")
ENDED = "ended"
AT_ONCE = ("local",)
"""Schedulers of which a job is known from the moment that it is submitted, or never."""
LATE_S = 600.0
"""So long a job is looked for that came up only after it was given up."""
CANCEL_AGAIN_S = 30.0
"""So long after its grace a job that was cancelled, and is still there, is cancelled again."""


class Pilots:
    """The pilots of this daemon, and the scheduler that runs them.

    Args:
        site: Whose pilots they are.
        scheduler: Runs them.
        storage: Where they are written down.
        record: The service record, by which their agents find the daemon.
        shaped: Gives a job its shape, when its turn comes; None: all are as the site says.
    """

    def __init__(
        self,
        site: Site,
        scheduler: Scheduler,
        storage: Storage,
        record: Path,
        shaped: Callable[[PilotJob], Awaitable[PilotJob]] | None = None,
    ) -> None:
        self.jobs: dict[PilotId, Job] = {}
        self._site = site
        self._scheduler = scheduler
        self._storage = storage
        self._record = record
        self._shaped = shaped
        self._enrolments = enrolments.Enrolments(site, self._logs)
        self._tag = service_tag(site.shared_dir)
        self._swept = False
        self._lost: dict[PilotId, float] = {}
        self._silence: SchedulerError | None = None
        self._hosts = Hosts(scheduler, self.jobs, find=self._find, poll_s=site.scheduler.poll_s)
        patience_s = 0.0 if site.scheduler.kind in AT_ONCE else 2 * site.scheduler.timeout_s
        self._name_within_s = patience_s

    async def recover(self) -> list[PilotId]:
        """Takes up the pilots of earlier controllers. What became of them :meth:`poll` will tell.

        Returns:
            The pilots that may still run.
        """
        for row in await self._storage.do(Store.pilots):
            if row.state in LIVE:
                state = JobState(phase="unknown", cause="the scheduler has not been asked yet")
                job = Job(self._enrolments.begun(row), JobId(row.job) if row.job else None, state)
                job.since_s = time.monotonic() - max(0.0, time.time() - row.submitted_s)
                self.jobs[row.id] = job
        return list(self.jobs)

    async def job_of(self, pilot: PilotId) -> PilotJob:
        """What a new pilot is to be submitted as, now: the scheduler may be asked in which shape it starts soon."""
        job = pilot_job(self._site, pilot, self._record)
        return job if self._shaped is None else await self._shaped(job)

    async def submit(self, pilot: PilotId, job: PilotJob | None = None) -> None:
        """Hands a new pilot in. Whether it was taken may stay open; :meth:`poll` finds it out.

        Args:
            pilot: The pilot.
            job: What it is submitted as; None: as :meth:`job_of` says.

        Raises:
            JobRefused: The scheduler will never take it.
            NoRoom: It does not take it now.
            SchedulerError: It does not answer.
            StorageFull: There is no room to write it down, or for what its agent has to be told.
        """
        wanted = await self.job_of(pilot) if job is None else job
        intent = PilotRow(
            id=pilot,
            incarnation="",
            state="submitting",
            secret_sha256="",
            submitted_s=time.time(),
            nodes=wanted.nodes or 0,
            walltime_s=wanted.walltime_s,
        )
        row, secret = enrolments.incarnation(intent, 0)
        await self._storage.do(Store.put_pilot, row)
        self.jobs[pilot] = Job(row, None, since_s=time.monotonic())
        try:
            self._enrolments.lay_down(row, secret)
            name = await self._scheduler.submit(wanted)
        except SubmissionUnknown as error:
            _log.warning("pilot %s may have been submitted: %s", pilot, error)
            self.jobs[pilot].state = JobState(phase="unknown", cause=str(error))
            # From now: before it was even tried, the lease may have had to be waited for, and then its answer.
            self.jobs[pilot].doubt, self.jobs[pilot].since_s = str(error), time.monotonic()
            return
        except HpcserveError as error:
            await self.end(pilot, str(error))
            raise
        await self._named(self.jobs[pilot], name)

    async def requeued(self, pilot: PilotId, restarts: int) -> str | None:
        """Lets the next incarnation of a pilot in, and the one before out.

        Returns:
            The key of the one before, in hex; None if it had none.

        Raises:
            StorageFull: There is no room to write it down, or for what the next one's agent has to be told; nobody was
                told anything, and it can be tried again.
            ConfigError: That may not be written; the same holds.
            SchedulerError: That cannot be written for another reason; the same holds.
        """
        job = self.jobs[pilot]
        async with job.enrolling:  # what is written of the one before is written first
            row, secret = enrolments.incarnation(job.row, restarts)
            # In this order, since an agent that waits reads its file at once, and must be let in by it.
            await self._storage.do(Store.put_pilot, row)
            self._enrolments.lay_down(row, secret)
            old, job.row = job.row.public_key, row
            job.state, job.told, job.ran_s = JobState(phase="queued", restarts=restarts), False, -math.inf
        _log.info("pilot %s (job %s) was put back into the queue; restarts: %d", pilot, job.name, restarts)
        if job.cancel_at_s is not None:
            job.cancel_at_s = time.monotonic()  # only the one before was
        return old

    @property
    def _logs(self) -> Path:
        return self._site.shared_dir / "logs"

    async def enrol(self, pilot: PilotId, incarnation: str, secret: str, key: bytes, host: str) -> None:
        """Checks an agent that wants in, and writes its key down.

        Where it runs, it says itself: that keeps out an agent that was started at the wrong place, as the
        secret keeps out all others.

        Raises:
            AuthenticationError: It is not the agent of a pilot of ours, or says that it runs elsewhere than its pilot.
            ServiceUnavailable: The scheduler does not say where the pilot runs.
            SchedulerError: The scheduler does not answer.
            StorageFull: There is no room to write the key down.
        """
        job = self.jobs.get(pilot)
        if job is None:
            raise AuthenticationError(f"pilot {pilot} is not one of this daemon's, or has ended")
        async with job.enrolling:  # of two agents with one secret, the second finds the first's key
            await self._enrol(job, incarnation, secret, key, host)

    async def _enrol(self, job: Job, incarnation: str, secret: str, key: bytes, host: str) -> None:
        pilot = job.row.id
        enrolments.check(job.row, incarnation, secret, key)
        expected = await self._hosts.of(job)
        if not expected:
            raise ServiceUnavailable(f"the scheduler does not say yet where pilot {pilot} runs", retry_after_s=1.0)
        enrolments.check_host(pilot, expected, host)
        self._check_alive(job)
        job.row = await self._storage.do(_enrolled, pilot, host, key.hex(), job.row)
        self._check_alive(job)

    def _check_alive(self, job: Job) -> None:
        if self.jobs.get(job.row.id) is not job:
            raise AuthenticationError(f"pilot {job.row.id} has ended meanwhile")

    async def poll(self) -> dict[PilotId, JobState]:
        """What the scheduler says about each pilot; ``unknown`` when it says nothing."""
        asked_s = time.monotonic()
        try:
            if not self._swept or self.is_looking or any(job.name is None for job in self.jobs.values()):
                await self._find()
            named = {job.name: pilot for pilot, job in self.jobs.items() if job.name is not None}
            states = {named[name]: state for name, state in (await self._scheduler.poll(list(named))).items()}
        except SchedulerError as error:
            self._silence = error
            states = {pilot: JobState(phase="unknown", cause=str(error)) for pilot in self.jobs}
        else:
            self._silence = None
            states |= {pilot: self._unnamed(job) for pilot, job in self.jobs.items() if job.name is None}
        for pilot, state in states.items():
            if pilot in self.jobs:  # it may have ended while the scheduler was asked
                _tell_begun(self.jobs[pilot], state)
                if state.phase == "running" and state.restarts == self.jobs[pilot].row.restarts:
                    self.jobs[pilot].ran_s = asked_s
                self.jobs[pilot].state, self.jobs[pilot].seen_s = state, time.monotonic()
        await self._cancel_again()
        return {pilot: state for pilot, state in states.items() if pilot in self.jobs}

    @property
    def is_silent(self) -> bool:
        """Whether the last :meth:`poll` had no answer."""
        return self._silence is not None

    @property
    def left_alone_s(self) -> float:
        """So long the scheduler, which does not answer, is left alone. 0: the last :meth:`poll` did ask it."""
        return 0.0 if self._silence is None else self._silence.retry_after_s or 0.0

    @property
    def is_in_doubt(self) -> bool:
        """Whether there is a pilot of which nobody knows what became of it."""
        return any(job.state.phase == "unknown" for job in self.jobs.values())

    async def _cancel_again(self) -> None:
        """Cancels what is to end and is still there: a requeued job forgets that it was cancelled.

        Those that wait longest first: where one deletion hangs, the scheduler takes no other for a while.
        """
        now = time.monotonic()
        to_end = [(job.cancel_at_s, pilot) for pilot, job in self.jobs.items() if job.cancel_at_s is not None]
        for at_s, pilot in sorted(to_end):
            job = self.jobs.get(pilot)
            is_there = job is not None and job.name is not None and job.state.phase not in ("ended", "unknown")
            if is_there and now >= at_s:
                try:
                    await self.cancel(pilot)
                except SchedulerError as error:
                    _log.warning("pilot %s, which is to end, is not cancelled: %s", pilot, error)

    def _unnamed(self, job: Job) -> JobState:
        """Of a job that the scheduler does not list. It may be on its way there, but not for ever."""
        if time.monotonic() - job.since_s <= self._name_within_s:
            return JobState(phase="unknown", cause="the scheduler does not list it yet")
        self._lost[job.row.id] = time.monotonic() + LATE_S
        cause = f"no job of its name came up, so it was not taken, it seems: {job.doubt}"
        return JobState(phase="ended", end="never started", cause=cause)

    @property
    def is_looking(self) -> bool:
        """Whether a job that was given up may come up after all: what was to submit it may have outlived its daemon."""
        now = time.monotonic()
        self._lost = {pilot: until_s for pilot, until_s in self._lost.items() if now < until_s}
        return bool(self._lost)

    async def _find(self) -> None:
        """Names the jobs that have no name yet, and ends those that are ours and that nobody wrote down.

        Raises:
            SchedulerError: The scheduler does not answer.
        """
        found = await self._scheduler.find(self._tag)
        for name, pilot in found.items():
            job = self.jobs.get(pilot)
            if job is not None and job.name is None:
                await self._named(job, name)
        await self._end_strangers([name for name, pilot in found.items() if pilot in self._lost.keys() - self.jobs])
        if not self._swept:
            own = {job.name for job in self.jobs.values()}
            self._swept = await self._end_strangers([name for name in found if name not in own])

    async def _end_strangers(self, names: Collection[JobId]) -> bool:
        """Whether all of them were told to end: one that cannot be ended keeps nobody from hearing of the others."""
        told = True
        for name, state in (await self._scheduler.poll(names)).items() if names else ():
            if state.phase == "ended":
                continue
            _log.warning("job %s has our tag, and no pilot that lives: it is cancelled", name)
            try:
                await self._scheduler.cancel(name)
            except SchedulerError as error:
                _log.warning("job %s is not cancelled yet: %s", name, error)
                told = False
        return told

    async def _named(self, job: Job, name: JobId) -> None:
        job.name = name
        _log.info("pilot %s is submitted: job %s, %s, %s", job.row.id, name, *_size(job.row))
        # Without its name the next controller finds the job by its tag.
        await self._note(job.row.id, state="submitted", job=name)
        job.row = msgspec.structs.replace(job.row, state="submitted", job=name)

    async def cancel(self, pilot: PilotId) -> None:
        """Begins to end a pilot, at once or when its job is found; :meth:`poll` does it again while it does not end.

        After a failure it does so, too, later and later for a job that the scheduler was asked to end.

        Raises:
            SchedulerError: The scheduler does not answer, or does not end this job.
        """
        job = self.jobs.get(pilot)
        if job is None:
            return
        job.cancel_at_s = time.monotonic()
        if job.name is None:
            return
        try:
            await self._scheduler.cancel(job.name)
        except SchedulerError as error:
            if not error.retry_after_s:
                now = time.monotonic()
                job.deletion.unanswered(now)
                job.cancel_at_s = now + job.deletion.wait_s(now)
            raise
        job.deletion.answered()
        job.cancel_at_s += self._site.pilots.stop_grace_s + CANCEL_AGAIN_S

    def output(self, pilot: PilotId, run: int) -> str:
        """The last of what a run of a pilot printed; the first one is 0."""
        return printed(self._logs / f"{pilot}.log", run)

    async def end(self, pilot: PilotId, cause: str) -> None:
        """A pilot has ended, and nothing follows that is to be told before that is written down."""
        self.forget(pilot, cause)
        await self.note_end(pilot, cause)

    def forget(self, pilot: PilotId, cause: str) -> None:
        """A pilot has ended: it is none of :attr:`jobs` any more. :meth:`note_end` comes next."""
        job = self.jobs.pop(pilot, None)
        if job is not None:
            _log.info("pilot %s (job %s) has ended: %s", pilot, job.name or "none", cause)
            self._enrolments.remove(pilot, job.row.restarts)

    async def note_end(self, pilot: PilotId, cause: str) -> None:
        """Writes down that a pilot has ended; otherwise the next controller asks the scheduler once more."""
        await self._note(pilot, state=ENDED, ended_s=time.time(), cause=cause)
        with contextlib.suppress(HpcserveError):  # the next one that ends makes room for both
            await self._storage.do(Store.forget_pilots, ENDED, keep=self._site.pilots.keep_ended)

    def retry_now(self) -> None:
        """The scheduler is asked again at once, also where it has not answered and is left alone for a while."""
        self._scheduler.retry_now()

    async def close(self) -> None:
        """Lets go of the scheduler; the pilots go on."""
        await self._scheduler.close()

    async def _note(
        self,
        pilot: PilotId,
        *,
        state: str,
        job: str | None = None,
        ended_s: float | None = None,
        cause: str | None = None,
    ) -> None:
        """Writes down what can be found out again; that the store does not take it ends nothing."""
        try:
            await self._storage.do(Store.update_pilot, pilot, state=state, job=job, ended_s=ended_s, cause=cause)
        except HpcserveError as error:
            _log.warning("pilot %s is %s, which is not written down: %s", pilot, state, error)


def _tell_begun(job: Job, state: JobState) -> None:
    if state.phase == "running" and not job.told:
        job.told = True
        _log.info("pilot %s (job %s) has begun%s", job.row.id, job.name, f" on {state.host}" if state.host else "")


def _size(row: PilotRow) -> tuple[str, str]:
    return counted(row.nodes, "node") if row.nodes else "nodes as the site says", span(row.walltime_s)


def _enrolled(store: Store, pilot: PilotId, host: str, key: str, row: PilotRow) -> PilotRow:
    store.update_pilot(pilot, state="enrolled", host=host, public_key=key)
    return msgspec.structs.replace(row, state="enrolled", host=host, public_key=key)
