"""The pilot jobs at the scheduler: submitting, enrolling, polling, cancelling.

How many there should be is decided in :mod:`hpcserve.core.deployments`. A pilot's intent is on disk before
it is submitted (design §6), and a restarted controller finds its jobs again by their tag.

A job that the scheduler puts back into the queue begins anew as another *incarnation*: with a secret of its own in
another enrolment file, so that what is left of the one before is not let in.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hpcserve.auth import private
from hpcserve.cluster.seam import JobId, JobState, PilotJob, Scheduler
from hpcserve.config import Site
from hpcserve.daemon.controller.job import pilot_job, service_tag
from hpcserve.daemon.controller.printed import printed
from hpcserve.daemon.controller.storage import Storage
from hpcserve.daemon.images import rules_of
from hpcserve.daemon.launch import ENROLMENTS
from hpcserve.errors import (
    AuthenticationError,
    HpcserveError,
    SchedulerError,
    ServiceUnavailable,
    StorageFull,
    SubmissionUnknown,
)
from hpcserve.registry.rows import PilotRow
from hpcserve.registry.store import Store
from hpcserve.types import PilotId
from hpcserve.wire.launch import Enrolment, encode_enrolment, enrolment_name

_log = logging.getLogger(__name__)

LIVE = ("submitting", "submitted", "enrolled")
ENDED = "ended"
AT_ONCE = ("local",)
"""Schedulers of which a job is known from the moment that it is submitted, or never."""
LATE_S = 600.0
"""So long a job is looked for that came up only after it was given up."""
CUT_OFF = "the daemon was cut off while it submitted it"
CANCEL_AGAIN_S = 30.0
"""So long after its grace a job that was cancelled, and is still there, is cancelled again."""


@dataclass
class Job:
    """A pilot that has not ended.

    ``name`` is None until the scheduler is known to have taken it; ``doubt``: why that is open. ``cancel_at_s``: on the
    monotonic clock, when it is to be cancelled, or cancelled again if it is still there; None: it is not to end.
    ``seen_s``: when the scheduler told its state. ``host_asked``: it was asked for the agent of the present run.
    """

    row: PilotRow
    name: JobId | None
    state: JobState = field(default_factory=lambda: JobState(phase="queued"))
    enrolling: asyncio.Lock = field(default_factory=asyncio.Lock)
    doubt: str = CUT_OFF
    cancel_at_s: float | None = None
    seen_s: float = 0.0
    host_asked: bool = False

    @property
    def starts_in_s(self) -> float | None:
        """When it will start, as the scheduler guessed when it was asked last, from now on."""
        guess_s = self.state.starts_in_s
        return None if guess_s is None else max(0.0, guess_s - (time.monotonic() - self.seen_s))


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
        self._enrolments = site.shared_dir / ENROLMENTS
        self._tag = service_tag(site.shared_dir)
        self._swept = False
        self._lost: dict[PilotId, float] = {}
        self._silence: SchedulerError | None = None
        self._asking_hosts = asyncio.Lock()
        self._asked_hosts_s = float("-inf")
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
                self.jobs[row.id] = Job(self._begun(row), JobId(row.job) if row.job else None, state)
        return list(self.jobs)

    def _begun(self, row: PilotRow) -> PilotRow:
        """``row``, one incarnation back where the present one's agent was told nothing: then it is begun again."""
        if row.restarts == 0 or row.public_key is not None:
            return row
        try:
            self._enrolment(row.id, row.restarts).stat()
        except FileNotFoundError:
            return msgspec.structs.replace(row, restarts=row.restarts - 1)
        except OSError as error:
            _log.warning("whether the agent of pilot %s can be let in is not known: %s", row.id, error)
        return row

    async def submit(self, pilot: PilotId) -> None:
        """Hands a new pilot in. Whether it was taken may stay open; :meth:`poll` finds it out.

        Raises:
            JobRefused: The scheduler will never take it.
            NoRoom: It does not take it now.
            SchedulerError: It does not answer.
            StorageFull: There is no room to write it down, or for what its agent has to be told.
        """
        wanted = pilot_job(self._site, pilot, self._record)
        if self._shaped is not None:
            wanted = await self._shaped(wanted)
        intent = PilotRow(
            id=pilot,
            incarnation="",
            state="submitting",
            secret_sha256="",
            submitted_s=time.time(),
            nodes=wanted.nodes or 0,
            walltime_s=wanted.walltime_s,
        )
        row, secret = _incarnation(intent, 0)
        await self._storage.do(Store.put_pilot, row)
        self.jobs[pilot] = Job(row, None)
        try:
            self._lay_down(row, secret)
            name = await self._scheduler.submit(wanted)
        except SubmissionUnknown as error:
            _log.warning("pilot %s may have been submitted: %s", pilot, error)
            self.jobs[pilot].state = JobState(phase="unknown", cause=str(error))
            self.jobs[pilot].doubt = str(error)
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
            ConfigError: That cannot be written for another reason; the same holds.
        """
        job = self.jobs[pilot]
        async with job.enrolling:  # what is written of the one before is written first
            row, secret = _incarnation(job.row, restarts)
            # In this order, since an agent that waits reads its file at once, and must be let in by it.
            await self._storage.do(Store.put_pilot, row)
            self._lay_down(row, secret)
            old, job.row = job.row.public_key, row
            job.state, job.host_asked = JobState(phase="queued", restarts=restarts), False
        if job.cancel_at_s is not None:
            job.cancel_at_s = time.monotonic()  # only the one before was
        return old

    def _lay_down(self, row: PilotRow, secret: str) -> None:
        pilots = self._site.pilots
        enrolment = Enrolment(
            pilot=row.id,
            incarnation=row.incarnation,
            secret=secret,
            slots=pilots.slots,
            walltime_s=row.walltime_s or pilots.walltime_s,
            orphan_s=pilots.orphan_s,
            stop_grace_s=pilots.stop_grace_s,
            log_dir=str(self._logs),
            log_bytes=pilots.log_bytes,
            launcher=pilots.launcher,
            containers=rules_of(self._site.containers),
        )
        private.private_directory(self._enrolments)
        private.replace(self._enrolment(row.id, row.restarts), encode_enrolment(enrolment))

    def _enrolment(self, pilot: PilotId, restarts: int) -> Path:
        return Path(enrolment_name(str(self._enrolments / pilot), restarts))

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
        row, pilot = job.row, job.row.id
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if incarnation != row.incarnation or not secrets.compare_digest(digest, row.secret_sha256):
            raise AuthenticationError(f"pilot {pilot}: another incarnation has taken its place, or the secret is wrong")
        if row.public_key is not None and row.public_key != key.hex():
            raise AuthenticationError(f"pilot {pilot}: its secret was used before")
        expected = await self._host(job)
        if not expected:
            raise ServiceUnavailable(f"the scheduler does not say yet where pilot {pilot} runs", retry_after_s=1.0)
        if _short(expected) != _short(host):
            raise AuthenticationError(f"pilot {pilot} runs on {expected}, this agent on {host}")
        self._check_alive(job)
        job.row = await self._storage.do(_enrolled, pilot, host, key.hex(), job.row)
        self._check_alive(job)

    def _check_alive(self, job: Job) -> None:
        if self.jobs.get(job.row.id) is not job:
            raise AuthenticationError(f"pilot {job.row.id} has ended meanwhile")

    async def _host(self, job: Job) -> str:
        """Where a job runs; empty if that is not known.

        One question serves all agents that come at a time. For one that comes again nobody is asked sooner than polls
        may be.
        """
        async with self._asking_hosts:
            again_s = self._asked_hosts_s + self._site.scheduler.poll_s
            if not job.state.host and not (job.host_asked and time.monotonic() < again_s):
                job.host_asked, self._asked_hosts_s = True, time.monotonic()
                if job.name is None:
                    await self._find()
                await self._learn_hosts(job)
        return job.state.host

    async def _learn_hosts(self, job: Job) -> None:
        unknown = {each.name: each for each in self.jobs.values() if each.name is not None and not each.state.host}
        if job.name in unknown:
            for name, state in (await self._scheduler.poll(list(unknown))).items():
                if name == job.name or state.host:
                    unknown[name].state, unknown[name].seen_s = state, time.monotonic()

    async def poll(self) -> dict[PilotId, JobState]:
        """What the scheduler says about each pilot; ``unknown`` when it says nothing."""
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
        """Cancels what is to end and is still there: a requeued job forgets that it was cancelled."""
        now = time.monotonic()
        for pilot, job in list(self.jobs.items()):
            is_due = job.cancel_at_s is not None and now >= job.cancel_at_s
            if is_due and job.name is not None and job.state.phase not in ("ended", "unknown"):
                try:
                    await self.cancel(pilot)
                except SchedulerError as error:
                    _log.warning("pilot %s, which is to end, is not cancelled: %s", pilot, error)

    def _unnamed(self, job: Job) -> JobState:
        """Of a job that the scheduler does not list. It may be on its way there, but not for ever."""
        if time.time() - job.row.submitted_s <= self._name_within_s:
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
            await self._end_strangers([name for name in found if name not in own])
            self._swept = True

    async def _end_strangers(self, names: Collection[JobId]) -> None:
        if not names:
            return
        for name, state in (await self._scheduler.poll(names)).items():
            if state.phase != "ended":
                _log.warning("job %s has our tag, and no pilot that lives: it is cancelled", name)
                await self._scheduler.cancel(name)

    async def _named(self, job: Job, name: JobId) -> None:
        job.name = name
        # Without its name the next controller finds the job by its tag.
        await self._note(job.row.id, state="submitted", job=name)
        job.row = msgspec.structs.replace(job.row, state="submitted", job=name)

    async def cancel(self, pilot: PilotId) -> None:
        """Begins to end a pilot, at once or when its job is found; :meth:`poll` does it again while it does not end.

        Raises:
            SchedulerError: The scheduler does not answer.
        """
        job = self.jobs.get(pilot)
        if job is None:
            return
        job.cancel_at_s = time.monotonic()
        if job.name is not None:
            job.cancel_at_s += self._site.pilots.stop_grace_s + CANCEL_AGAIN_S
            await self._scheduler.cancel(job.name)

    def output(self, pilot: PilotId, run: int) -> str:
        """The last of what a run of a pilot printed; the first one is 0."""
        return printed(self._logs / f"{pilot}.log", run)

    async def end(self, pilot: PilotId, cause: str) -> None:
        """A pilot has ended."""
        job = self.jobs.pop(pilot, None)
        # Otherwise the next controller asks the scheduler once more.
        await self._note(pilot, state=ENDED, ended_s=time.time(), cause=cause)
        for restarts in range(0 if job is None else job.row.restarts + 1):
            path = self._enrolment(pilot, restarts)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # its secret lets nobody in any more
                _log.warning("the enrolment file of pilot %s stays: %s", pilot, error)
        with contextlib.suppress(StorageFull):  # the next one that ends makes room for both
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
        """Writes down what can be found out again; that there is no room for it ends nothing."""
        try:
            await self._storage.do(Store.update_pilot, pilot, state=state, job=job, ended_s=ended_s, cause=cause)
        except StorageFull as error:
            _log.warning("pilot %s is %s, which is not written down: %s", pilot, state, error)


def _incarnation(row: PilotRow, restarts: int) -> tuple[PilotRow, str]:
    """The row of a pilot's incarnation, and its secret."""
    secret = secrets.token_urlsafe(32)
    changed = msgspec.structs.replace(
        row,
        incarnation=secrets.token_hex(8),
        secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
        restarts=restarts,
        host=None,
        public_key=None,
    )
    return changed, secret


def _short(host: str) -> str:
    """A node's name as schedulers spell it: some nodes call themselves by their whole name."""
    return host.partition(".")[0]


def _enrolled(store: Store, pilot: PilotId, host: str, key: str, row: PilotRow) -> PilotRow:
    store.update_pilot(pilot, state="enrolled", host=host, public_key=key)
    return msgspec.structs.replace(row, state="enrolled", host=host, public_key=key)
