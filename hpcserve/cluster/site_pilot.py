"""Tries a site with a job of one minute: does it start, does hpcserve start in it, does it reach the login node?"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from hpcserve import __version__
from hpcserve.cluster.evidence import no_python
from hpcserve.cluster.probe import CONNECT_TIMEOUT_S, Report
from hpcserve.cluster.seam import JobId, JobState, PilotJob, Scheduler
from hpcserve.cluster.site_findings import Finding
from hpcserve.config import Site
from hpcserve.errors import HpcserveError, SchedulerError
from hpcserve.types import PilotId

TAG = "check"
WALLTIME_S = 60.0
LATE_S = 10.0
"""A file may be seen so long after the job's end: other nodes' files come late on network file systems."""
_POLL_S = 2.0
_REMOVE_S = 0.1
_LOG_LINES = 5


def modest(site: Site) -> Site:
    """The site with pilots as small as may be, for one job that nobody waits for long."""
    pilots = msgspec.structs.replace(site.pilots, nodes=1, walltime_s=WALLTIME_S, requeue=False)
    return msgspec.structs.replace(site, pilots=pilots)


async def try_pilot(site: Site, scheduler: Scheduler, addresses: Sequence[str], *, timeout_s: float) -> list[Finding]:
    """Submits the job, waits until it has reported, and leaves nothing behind.

    Args:
        site: A :func:`modest` site.
        scheduler: Its scheduler.
        addresses: ``HOST:PORT`` of ZeroMQ sockets of this host that the job must reach.
        timeout_s: The job is cancelled if it has not reported after so long.
    """
    name = f"site-check-{secrets.token_hex(4)}"
    directory = site.shared_dir / name
    directory.mkdir(mode=0o700, parents=True)
    job = _job(site, PilotId(name), directory, addresses)
    try:
        submitted = await scheduler.submit(job)
        return await _wait(scheduler, submitted, directory, timeout_s, min(_POLL_S, site.scheduler.poll_s))
    except HpcserveError as error:
        return [Finding("pilot", "failed", str(error))]
    finally:
        with contextlib.suppress(SchedulerError):  # it ends by itself after a minute
            await _cancel(scheduler, job)
        await _remove(directory)


async def _cancel(scheduler: Scheduler, job: PilotJob) -> None:
    """Found by its name: a Ctrl-C may have come while it was submitted."""
    for name, pilot in (await scheduler.find(job.tag)).items():
        if pilot == job.pilot:
            await scheduler.cancel(name)


async def _remove(directory: Path) -> None:
    """Tried more than once, as the job may write its last lines yet."""
    for _ in range(round(LATE_S / _REMOVE_S)):
        if _is_removed(directory):
            return
        await asyncio.sleep(_REMOVE_S)


def _is_removed(directory: Path) -> bool:
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


def _job(site: Site, pilot: PilotId, directory: Path, addresses: Sequence[str]) -> PilotJob:
    argv = [site.pilots.python or sys.executable, "-P", "-m", "hpcserve.cluster.probe"]
    argv += ["--report", str(_report(directory))]
    argv += [word for address in addresses for word in ("--address", address)]
    return PilotJob(
        pilot=pilot,
        tag=TAG,
        argv=tuple(argv),
        directory=directory,
        log=_log(directory),
        walltime_s=WALLTIME_S,
    )


def _report(directory: Path) -> Path:
    return directory / "report.json"


def _log(directory: Path) -> Path:
    return directory / "log"


async def _wait(scheduler: Scheduler, job: JobId, directory: Path, timeout_s: float, poll_s: float) -> list[Finding]:
    began_s = time.monotonic()
    ended_s: float | None = None
    while True:
        # Asked at least once, also of a job that is quick: so the daemon will ask, and this answer is not empty.
        state, unanswered = await _state(scheduler, job)
        report = _read(directory)
        now_s = time.monotonic()
        if report is not None:
            return [*unanswered, *judge(report, waited_s=now_s - began_s)]
        if state.phase == "ended":
            ended_s = now_s if ended_s is None else ended_s
            if now_s - ended_s >= min(LATE_S, timeout_s):
                return [Finding("pilot", "failed", died(state, _tail(directory)))]
        elif now_s - began_s >= timeout_s:
            return [*unanswered, Finding("pilot", "failed", late(state, timeout_s))]
        await asyncio.sleep(poll_s)


async def _state(scheduler: Scheduler, job: JobId) -> tuple[JobState, list[Finding]]:
    """What the scheduler says of the job, and what is to be said of the scheduler if it says nothing."""
    try:
        return (await scheduler.poll([job]))[job], []
    except HpcserveError as error:
        return JobState(phase="unknown", cause="the scheduler does not tell"), [Finding("queue", "failed", str(error))]


def _read(directory: Path) -> Report | None:
    list(directory.iterdir())  # makes NFS look whether the directory has changed
    try:
        return msgspec.json.decode(_report(directory).read_bytes(), type=Report)
    except FileNotFoundError:
        return None


def judge(report: Report, *, waited_s: float) -> Iterator[Finding]:
    """What the report of a node says."""
    yield Finding(
        "pilot", "ok", f"ran on {report.host} and wrote to shared_dir, {waited_s:.0f} s after it was submitted"
    )
    if report.version == __version__:
        yield Finding("python", "ok", f"{report.python} with hpcserve {report.version} on {report.host}")
    else:
        told = f"{report.python} on {report.host} has hpcserve {report.version}, this one is {__version__}"
        yield Finding("python", "failed", f"{told}; install the same in both, or correct pilots.python")
    if report.unreachable:
        why = "; ".join(f"{address}: {told}" for address, told in report.unreachable.items())
        told = f"{report.host} does not reach this host within {CONNECT_TIMEOUT_S:g} s: {why}"
        yield Finding("network", "failed", f"{told}; set network.host to another interface, or ask for open ports")
    else:
        yield Finding("network", "ok", f"{report.host} reaches this host")


def died(state: JobState, log: str) -> str:
    """What to say of a job that ended without a report."""
    ended = f"it ended without a report: {state.cause or state.end}"
    return f"{ended}; its log ends: {no_python(log) or log or '(nothing)'}"


def late(state: JobState, timeout_s: float) -> str:
    """What to say of a job that did not report in time."""
    why = f" ({state.cause})" if state.cause else ""
    guess = f"; it is expected to start in {state.starts_in_s:.0f} s" if state.starts_in_s is not None else ""
    return (
        f"{state.phase}{why} after {timeout_s:g} s, so it was cancelled{guess}; try again later, or with a longer "
        "--timeout, or without it: --no-submit"
    )


def _tail(directory: Path) -> str:
    try:
        lines = _log(directory).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return " | ".join(lines[-_LOG_LINES:])
