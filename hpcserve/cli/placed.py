"""``hpcserve up`` and ``down`` where the daemon runs in a job of its own: it waits in a queue, and lives elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from hpcserve.cli.terminal import note, waiting

if TYPE_CHECKING:
    from hpcserve.cluster.one_job import OneJob
    from hpcserve.cluster.seam import JobId, JobState, Scheduler
    from hpcserve.config import Site
    from hpcserve.wire.record import ServiceRecord

LOOK_S = 2.0
"""Files are looked at so often. How often the scheduler is asked, the site says."""
STAY_S = 30.0
"""Who merely stays looks so seldom."""
LATE_S = 20.0
"""The record of a daemon may be seen so long after its job was seen to end: files come late on network file systems."""
DOWN_S = 60.0


def bring_up(site: Site, option: str | None) -> tuple[JobId, ServiceRecord]:
    """Submits the daemon's job, unless it is there already, and waits until the daemon can be called.

    Ctrl-C takes back what was submitted.

    Raises:
        HpcserveError: It cannot start, and why.
        KeyboardInterrupt: It was taken back.
    """
    from hpcserve import config
    from hpcserve.daemon.plans import site_option
    from hpcserve.daemon.preparation import prepare

    prepare(site)
    return asyncio.run(_brought_up(site, config.site_named(site_option(option))))


def stay(site: Site, job: JobId) -> None:
    """Waits until the job has ended."""
    asyncio.run(_over(site, job, None))


def take_down(site: Site, job: JobId) -> None:
    """Has the daemon end, with its pilots, and waits until its job has.

    Raises:
        HpcserveError: It cannot be asked, or takes too long.
    """
    _ask_down(site)
    with waiting("the daemon is going down"):
        asyncio.run(_over(site, job, DOWN_S))


def take_back(site: Site) -> list[JobId]:
    """Cancels the daemon's jobs that wait in the queue, so that none begins after all.

    Raises:
        SchedulerError: The scheduler does not answer.
    """
    return asyncio.run(_taken_back(site))


def jobs_in_words(site: Site) -> list[str]:
    """The daemon's jobs that have not ended, each with what it waits for.

    Raises:
        SchedulerError: The scheduler does not answer.
    """
    return asyncio.run(_in_the_queue(site))


async def _in_the_queue(site: Site) -> list[str]:
    from hpcserve.daemon import placement

    scheduler = placement.open_placing(site)
    try:
        return [f"{job} {_in_words(state)}" for job, state in (await _living(site, scheduler)).items()]
    finally:
        await scheduler.close()


async def _brought_up(site: Site, option: str) -> tuple[JobId, ServiceRecord]:
    from hpcserve.daemon import placement

    scheduler = placement.open_placing(site)
    before = _record(site)
    try:
        there = await _living(site, scheduler)
        job = next(iter(there), None) or await scheduler.submit(placement.daemon_job(site, option))
        note(f"the daemon of site {site.name} is job {job}{', which is there already' if there else ''}")
        ready = False
        try:
            record = await until_ready(site, scheduler, job, before, was_there=bool(there))
            ready = True
        finally:
            if not ready and not there:
                await _cancelled(scheduler, job)
        return job, record
    finally:
        await scheduler.close()


async def until_ready(
    site: Site, scheduler: Scheduler, job: JobId, before: ServiceRecord | None, *, was_there: bool
) -> ServiceRecord:
    """The record of the daemon in the job; says meanwhile what it waits for.

    Args:
        site: The site.
        scheduler: Its scheduler.
        job: The job.
        before: The record as it was before; a daemon that was killed leaves its own behind.
        was_there: Whether the job is older than ``before``, which may be its daemon's then.

    Raises:
        HpcserveError: The job ended before.
    """
    from hpcserve.cluster.one_job import OneJob
    from hpcserve.errors import HpcserveError

    printed_bytes = _printed_bytes(site)
    watched, seen = OneJob(site, scheduler, job), (before, printed_bytes)
    told = ""
    ended_s: float | None = None
    while True:
        state = await watched.look()
        record, now_printed = _record(site), _printed_bytes(site)
        if (record, now_printed) != seen:  # it starts, or has ended, whatever was told of it last
            seen = (record, now_printed)
            watched.stir()
        # The same one again is that of a daemon which runs only if the scheduler says that the job runs there.
        is_news = record != before or (was_there and state.phase == "running" and bool(state.host))
        if record is not None and is_news and _may_be_of(record, before, watched):
            return record
        if state.phase == "ended":
            ended_s = time.monotonic() if ended_s is None else ended_s
            said = _last_line(site, printed_bytes)
            if said or not state.host or time.monotonic() - ended_s >= LATE_S:
                raise HpcserveError(f"job {job} of the daemon ended before it was ready: {said or state.cause}")
        now = _in_words(state)
        if now != told:
            told = now
            note(f"job {job} {now}")
        await asyncio.sleep(_look_s(site))


async def _cancelled(scheduler: Scheduler, job: JobId) -> None:
    """Takes back what was submitted; what came in between is told by whoever calls."""
    from hpcserve.errors import SchedulerError

    try:
        await scheduler.cancel(job)
    except SchedulerError as error:
        note(f"job {job} may begin all the same ({error.message}); when the batch scheduler answers: hpcserve down")


def _printed_bytes(site: Site) -> int:
    """So much the daemon's jobs have printed until now."""
    from hpcserve.daemon.placement import job_log

    try:
        return job_log(site).stat().st_size
    except FileNotFoundError:
        return 0


def _last_line(site: Site, after_bytes: int) -> str:
    """The last line that was printed since."""
    from hpcserve.daemon.placement import job_log

    try:
        lines = job_log(site).read_bytes()[after_bytes:].decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _look_s(site: Site) -> float:
    """So often files are looked at."""
    return min(LOOK_S, site.scheduler.poll_s)


def _may_be_of(record: ServiceRecord, before: ServiceRecord | None, job: OneJob) -> bool:
    """Whether the record may be that of the daemon in the job; some nodes call themselves by their whole name."""
    from hpcserve.core.lease import lease_epoch

    state = job.state
    if state.phase == "queued" and job.is_stale:
        # It may run by now. Of the jobs of a service one begins at a time, so whoever has taken the lease since is it.
        return before is None or lease_epoch(record.epoch) > lease_epoch(before.epoch)
    same = not state.host or record.host.partition(".")[0] == state.host.partition(".")[0]
    return same and state.phase in ("running", "unknown")


def _in_words(state: JobState) -> str:
    from hpcserve.core.spans import span

    if state.phase == "running":
        return f"runs on {state.host}" if state.host else "runs"
    guess = "" if state.starts_in_s is None else f" (expected to start in {span(state.starts_in_s)})"
    return f"is {state.phase}{f': {state.cause}' if state.cause else ''}{guess}"


async def _living(site: Site, scheduler: Scheduler) -> Mapping[JobId, JobState]:
    """The daemon's jobs that have not ended, the one that runs first."""
    from hpcserve.daemon.placement import tag_of

    states = await scheduler.poll(list(await scheduler.find(tag_of(site))))
    found = [(job, state) for job, state in states.items() if state.phase != "ended"]
    return dict(sorted(found, key=lambda each: each[1].phase != "running"))


async def _taken_back(site: Site) -> list[JobId]:
    from hpcserve.daemon import placement

    scheduler = placement.open_placing(site)
    try:
        living = await _living(site, scheduler)
        queued = [job for job, state in living.items() if state.phase == "queued"]
        for job in queued:
            await scheduler.cancel(job)
        for job in living.keys() - set(queued):
            await _let_start(site, scheduler, job)
        return queued
    finally:
        await scheduler.close()


async def _let_start(site: Site, scheduler: Scheduler, job: JobId) -> None:
    """A daemon that is about to start can be asked soon; cancelled now, it would leave its pilots."""
    from hpcserve.cluster.one_job import OneJob

    watched, until_s = OneJob(site, scheduler, job), time.monotonic() + DOWN_S
    while _record(site) is None and time.monotonic() < until_s:
        if (await watched.look()).phase == "ended":
            return
        await asyncio.sleep(_look_s(site))


async def _over(site: Site, job: JobId, within_s: float | None) -> None:
    from hpcserve.cluster.one_job import OneJob
    from hpcserve.daemon import placement
    from hpcserve.errors import DeadlineExceeded

    scheduler = placement.open_placing(site)
    watched, record = OneJob(site, scheduler, job), _record(site)
    try:
        async with asyncio.timeout(within_s):
            while (await watched.look()).phase != "ended":
                await asyncio.sleep(_look_s(site) if within_s else STAY_S)
                before, record = record, _record(site)
                if record != before:
                    watched.stir()
    except TimeoutError as error:
        raise DeadlineExceeded(f"job {job} of the daemon has not ended yet; wait for it with: hpcserve down") from error
    finally:
        await scheduler.close()


def _ask_down(site: Site) -> None:
    from hpcserve.client import Client
    from hpcserve.client.services import Service
    from hpcserve.errors import ServiceUnavailable
    from hpcserve.wire.admin import Down, GoingDown
    from hpcserve.wire.record import RECORD_NAME

    with contextlib.suppress(ServiceUnavailable), Client(Service(site.shared_dir / RECORD_NAME)) as client:
        client.call("down", Down(), GoingDown, timeout_s=DOWN_S)


def _record(site: Site) -> ServiceRecord | None:
    """The service record as it is now; None where there is none that can be read."""
    from hpcserve.errors import ConfigError
    from hpcserve.wire.record import RECORD_NAME, decode_record

    path = site.shared_dir / RECORD_NAME
    try:
        list(site.shared_dir.iterdir())  # makes NFS look whether the directory has changed
        return decode_record(path.read_bytes(), str(path))
    except (OSError, ConfigError):
        return None


def tell_taken_back(jobs: list[JobId]) -> None:
    """Says which jobs of the daemon were cancelled in the queue."""
    for job in jobs:
        typer.echo(f"job {job} of the daemon, which waited in the queue, was cancelled")
