"""The pilot jobs at the scheduler: submitting, enrolling, polling, cancelling.

How many there should be is decided in :mod:`hpcserve.core.deployments`. A pilot's intent is on disk before
it is submitted (design §6), and a restarted controller finds its jobs again by their tag.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hpcserve.auth import private
from hpcserve.cluster.seam import JobId, JobState, PilotJob, Scheduler
from hpcserve.config import Site
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import AuthenticationError, HpcserveError, SchedulerError, ServiceUnavailable, StorageFull
from hpcserve.registry.rows import PilotRow
from hpcserve.registry.store import Store
from hpcserve.types import PilotId
from hpcserve.wire.launch import Enrolment, encode_enrolment

_log = logging.getLogger(__name__)

LIVE = ("submitting", "submitted", "enrolled")
ENDED = "ended"
LOG_TAIL_BYTES = 4096


@dataclass
class Job:
    """A pilot that has not ended. ``name`` is None until the scheduler has taken it."""

    row: PilotRow
    name: JobId | None
    state: JobState = field(default_factory=lambda: JobState(phase="queued"))
    enrolling: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pilots:
    """The pilots of this daemon, and the scheduler that runs them."""

    def __init__(self, site: Site, scheduler: Scheduler, storage: Storage, record: Path) -> None:
        self.jobs: dict[PilotId, Job] = {}
        self._site = site
        self._scheduler = scheduler
        self._storage = storage
        self._record = record
        self._enrolments = site.shared_dir / "enrolments"

    async def recover(self) -> list[PilotId]:
        """Finds the pilots of earlier controllers; what nobody wrote down is cancelled.

        Returns:
            The pilots that may still run.
        """
        found = {pilot: job for job, pilot in (await self._scheduler.find()).items()}
        for row in await self._storage.do(Store.pilots):
            if row.state not in LIVE:
                continue
            name = JobId(row.job) if row.job else found.get(row.id)
            if name is None:
                await self._ended(row.id, "the daemon ended before the pilot was submitted")
            else:
                self.jobs[row.id] = Job(row, name)
        for pilot, job in found.items():
            if pilot not in self.jobs:
                await self._scheduler.cancel(job)
        return list(self.jobs)

    async def submit(self, pilot: PilotId) -> None:
        """Hands a new pilot in.

        Raises:
            SchedulerError: The scheduler did not take it.
            StorageFull: There is no room to write it down, or for what its agent has to be told.
        """
        secret = secrets.token_urlsafe(32)
        row = PilotRow(
            id=pilot,
            incarnation=secrets.token_hex(8),
            state="submitting",
            secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
            submitted_s=time.time(),
        )
        await self._storage.do(Store.put_pilot, row)
        self.jobs[pilot] = Job(row, None)
        try:
            name = await self._scheduler.submit(self._pilot_job(row, secret))
        except HpcserveError as error:
            await self.end(pilot, str(error))
            raise
        self.jobs[pilot].name = name
        # Without its name the next controller finds the job by its tag.
        await self._note(pilot, state="submitted", job=name)

    def _pilot_job(self, row: PilotRow, secret: str) -> PilotJob:
        pilots = self._site.pilots
        logs = self._site.shared_dir / "logs"
        enrolment = Enrolment(
            pilot=row.id,
            incarnation=row.incarnation,
            secret=secret,
            slots=pilots.slots,
            walltime_s=pilots.walltime_s,
            orphan_s=pilots.orphan_s,
            stop_grace_s=pilots.stop_grace_s,
            log_dir=str(logs),
            log_bytes=pilots.log_bytes,
            launcher=pilots.launcher,
        )
        path = private.private_directory(self._enrolments) / f"{row.id}.json"
        private.create(path, encode_enrolment(enrolment))
        argv = (sys.executable, "-P", "-m", "hpcserve.pilot", "--record", str(self._record), "--enrolment", str(path))
        return PilotJob(
            pilot=row.id,
            argv=argv,
            directory=self._site.shared_dir,
            log=logs / f"{row.id}.log",
            walltime_s=pilots.walltime_s,
        )

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
        if expected != host:
            raise AuthenticationError(f"pilot {pilot} runs on {expected}, this agent on {host}")
        job.row = await self._storage.do(_enrolled, pilot, host, key.hex(), row)

    async def _host(self, job: Job) -> str:
        if not job.state.host and job.name is not None:
            job.state = (await self._scheduler.poll([job.name]))[job.name]
        return job.state.host

    async def poll(self) -> dict[PilotId, JobState]:
        """What the scheduler says about each pilot; ``unknown`` when it says nothing."""
        named = {job.name: pilot for pilot, job in self.jobs.items() if job.name is not None}
        try:
            states = await self._scheduler.poll(list(named))
        except SchedulerError as error:
            states = {name: JobState(phase="unknown", cause=str(error)) for name in named}
        found = {named[name]: state for name, state in states.items()}
        for pilot, state in found.items():
            self.jobs[pilot].state = state
        return found

    async def cancel(self, pilot: PilotId) -> None:
        """Begins to end a pilot."""
        job = self.jobs.get(pilot)
        if job is not None and job.name is not None:
            await self._scheduler.cancel(job.name)

    async def end(self, pilot: PilotId, cause: str) -> str:
        """A pilot has ended; returns the last of what it printed."""
        self.jobs.pop(pilot, None)
        await self._ended(pilot, cause)
        return _tail(self._site.shared_dir / "logs" / f"{pilot}.log")

    async def close(self) -> None:
        """Lets go of the scheduler; the pilots go on."""
        await self._scheduler.close()

    async def _ended(self, pilot: PilotId, cause: str) -> None:
        # Otherwise the next controller asks the scheduler once more.
        await self._note(pilot, state=ENDED, ended_s=time.time(), cause=cause)
        (self._enrolments / f"{pilot}.json").unlink(missing_ok=True)
        with contextlib.suppress(StorageFull):  # the next one that ends makes room for both
            await self._storage.do(Store.forget_pilots, ENDED, keep=self._site.pilots.keep_ended)

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


def _enrolled(store: Store, pilot: PilotId, host: str, key: str, row: PilotRow) -> PilotRow:
    store.update_pilot(pilot, state="enrolled", host=host, public_key=key)
    return msgspec.structs.replace(row, state="enrolled", host=host, public_key=key)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
