"""Tries a site with a job of one minute: does it start, does hpcserve start in it, does it reach the login node?"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hpcserve import __version__
from hpcserve.cluster.evidence import no_python
from hpcserve.cluster.finding import Finding
from hpcserve.cluster.one_job import OneJob
from hpcserve.cluster.probe import Report
from hpcserve.cluster.seam import JobState, PilotJob, Scheduler, own_log
from hpcserve.cluster.site_host import is_loopback
from hpcserve.config import Site, own_queues
from hpcserve.errors import HpcserveError, SchedulerError
from hpcserve.types import PilotId

TAG = "check"
WALLTIME_S = 60.0
LATE_S = 10.0
"""A file may be seen so long after the job's end: other nodes' files come late on network file systems."""
_LOOK_S = 2.0
"""The report is looked for so often. How often the scheduler is asked, the site says."""
_REMOVE_S = 0.1
_LOG_LINES = 5
_TELLS_TO = re.compile(r"; (?:correct|lower) ")  # a job that waits for that may wait for ever


@dataclass(frozen=True, slots=True)
class Look:
    """What a node is to look at.

    Attributes:
        addresses: ``HOST:PORT`` of ZeroMQ sockets that it is to reach.
        record: The service record that it is to read; None: none.
        is_home: Whether to try if a daemon could listen there, as ``network.host`` says.
        commands: What is to be found in PATH there.
    """

    addresses: Sequence[str]
    record: Path | None = None
    is_home: bool = False
    commands: Sequence[str] = ()

    def argv(self, site: Site, report: Path) -> tuple[str, ...]:
        """The command that looks, and writes what it saw to ``report``."""
        argv = [site.pilots.python or sys.executable, "-P", "-m", "hpcserve.cluster.probe", "--report", str(report)]
        argv += [word for address in self.addresses for word in ("--address", address)]
        argv += ["--listen", site.network.host] if self.is_home else []
        argv += [word for command in self.commands for word in ("--command", command)]
        return (*argv, *(() if self.record is None else ("--record", str(self.record))))


def modest(site: Site) -> Site:
    """The site with pilots as small as its queue allows, for one job that nobody waits for long."""
    queues = own_queues(site)
    shape = {
        "nodes": max([1, *(queue.min_nodes for queue in queues)]),
        "min_nodes": 0,
        "walltime_s": max([WALLTIME_S, *(queue.min_walltime_s for queue in queues)]),
        "min_walltime_s": 0.0,
    }
    pilots = msgspec.structs.replace(site.pilots, **shape, requeue=False)
    return msgspec.structs.replace(site, pilots=pilots)


async def try_pilot(
    site: Site, scheduler: Scheduler, look: Look, *, timeout_s: float, judged: Callable[[Report], Iterable[Finding]]
) -> list[Finding]:
    """Submits the job, waits until it has reported, and leaves nothing behind.

    Args:
        site: A :func:`modest` site.
        scheduler: Its scheduler.
        look: What the job is to look at.
        timeout_s: The job is cancelled if it has not reported after so long.
        judged: What its report says of that.
    """
    name = f"site-check-{secrets.token_hex(4)}"
    directory = site.shared_dir / name
    directory.mkdir(mode=0o700, parents=True)
    job = _job(site, PilotId(name), directory, look)
    try:
        submitted = await scheduler.submit(job)
        look_s = min(_LOOK_S, site.scheduler.poll_s)
        watched = OneJob(site, scheduler, submitted)
        return await _wait(watched, directory, timeout_s=timeout_s, look_s=look_s, judged=judged)
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


def _job(site: Site, pilot: PilotId, directory: Path, look: Look) -> PilotJob:
    return PilotJob(
        pilot=pilot,
        tag=TAG,
        argv=look.argv(site, report_of(directory)),
        directory=directory,
        log=_log(directory),
        walltime_s=site.pilots.walltime_s,
    )


def report_of(directory: Path) -> Path:
    """Where a node writes what it saw."""
    return directory / "report.json"


def _log(directory: Path) -> Path:
    return directory / "log"


async def _wait(
    job: OneJob,
    directory: Path,
    *,
    timeout_s: float,
    look_s: float,
    judged: Callable[[Report], Iterable[Finding]],
) -> list[Finding]:
    began_s = time.monotonic()
    ended_s: float | None = None
    while True:
        # Asked at least once, also of a job that is quick: so the daemon will ask, and this answer is not empty.
        state = await job.look()
        unanswered = [] if job.error is None else [Finding("queue", "failed", str(job.error))]
        report = read_report(directory)
        now_s = time.monotonic()
        if report is not None:
            return [*unanswered, *there(report, waited_s=now_s - began_s), *judged(report)]
        if state.phase == "ended":
            ended_s = now_s if ended_s is None else ended_s
            if now_s - ended_s >= min(LATE_S, timeout_s):
                return [Finding("pilot", "failed", died(state, _tail(directory)))]
        elif now_s - began_s >= timeout_s:
            return [*unanswered, Finding("pilot", "failed", late(state, timeout_s))]
        await asyncio.sleep(look_s)
        if time.monotonic() - began_s >= timeout_s:  # what is to be said then is to be true
            job.stir()


def read_report(directory: Path) -> Report | None:
    """What a node saw; None as long as it has not written it."""
    list(directory.iterdir())  # makes NFS look whether the directory has changed
    try:
        return msgspec.json.decode(report_of(directory).read_bytes(), type=Report)
    except FileNotFoundError:
        return None


def there(report: Report, *, waited_s: float) -> Iterator[Finding]:
    """What it says that there is a report of a job at all."""
    yield Finding(
        "pilot", "ok", f"ran on {report.host} and wrote to shared_dir, {waited_s:.0f} s after it was submitted"
    )
    if report.version == __version__:
        yield Finding("python", "ok", f"{report.python} with hpcserve {report.version} on {report.host}")
    else:
        told = f"{report.python} on {report.host} has hpcserve {report.version}, this one is {__version__}"
        yield Finding("python", "failed", f"{told}; install the same in both, or correct pilots.python")


def reaches(report: Report) -> Iterator[Finding]:
    """Whether the node reaches all of this host that it was to."""
    if report.obstacles:
        why = "; ".join(f"{address}: {obstacle.told}" for address, obstacle in report.obstacles.items())
        told = f"{report.host} does not reach this host: {why}"
        yield Finding("network", "failed", f"{told}; set network.host to another interface, or ask for open ports")
    else:
        yield Finding("network", "ok", f"{report.host} reaches this host")


def houses(report: Report) -> Iterator[Finding]:
    """Whether a daemon that runs in a job could listen on the node, for others to connect to, and submit pilots."""
    wrong = report.listen_error
    if report.listens and not wrong and is_loopback(report.listens):
        wrong = f"network.host is {report.listens} there, which other hosts cannot reach"
    if wrong:
        told = f"on {report.host}, where a daemon could run: {wrong}"
        yield Finding("interface", "failed", f"{told}; set network.host to an interface of the compute nodes")
    elif report.listens:  # a hpcserve of another version does not try
        yield Finding("interface", "ok", f"on {report.host} a daemon could listen at {report.listens}")
    if report.missing:
        missing = f"{', '.join(report.missing)} not found in PATH ({report.path})"
        how = 'have pilots.setup make them found, such as by "export PATH=$PATH:/opt/pbs/bin" or "module load slurm"'
        yield Finding("commands", "failed", f"on {report.host}, where a daemon could run: {missing}; {how}")
    yield Finding("network", "skipped", "whether pilots reach the daemon is told once it runs: hpcserve doctor --pilot")


def died(state: JobState, log: str) -> str:
    """What to say of a job that ended without a report."""
    ended = f"it ended without a report: {state.cause or state.end}"
    return f"{ended}; its log ends: {no_python(log) or log or '(nothing)'}"


def late(state: JobState, timeout_s: float) -> str:
    """What to say of a job that did not report in time."""
    why = f" ({state.cause})" if state.cause else ""
    guess = f"; it is expected to start in {state.starts_in_s:.0f} s" if state.starts_in_s is not None else ""
    told = f"{state.phase}{why} after {timeout_s:g} s, so it was cancelled{guess}"
    if _TELLS_TO.search(state.cause):
        return f"{told}; correct that, or check without a job: --no-submit"
    return f"{told}; try again later, or with a longer --timeout, or without it: --no-submit"


def _tail(directory: Path) -> str:
    """What the job said at last, and the scheduler where it does not write to the same file."""
    log = _log(directory)
    lines = [line for path in (log, own_log(log)) for line in _lines(path)[-_LOG_LINES:]]
    return " | ".join(lines)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
