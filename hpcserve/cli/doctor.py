"""``hpcserve doctor``: what is wrong with the daemon of a site that runs, or should.

``hpcserve site check`` tries a site file before a daemon stands on it; this looks at the daemon itself, and with
``--pilot`` at the way from its pilots back to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli import checks
from hpcserve.cli.exits import OK
from hpcserve.cli.options import seconds
from hpcserve.cli.up import SITE

if TYPE_CHECKING:
    from hpcserve.cluster.diagnosis import View
    from hpcserve.cluster.finding import Finding
    from hpcserve.cluster.probe import Report
    from hpcserve.cluster.seam import JobId
    from hpcserve.cluster.site_pilot import Look
    from hpcserve.config import Site
    from hpcserve.wire.admin import PilotView, Status
    from hpcserve.wire.record import ServiceRecord

ANSWER_S = 10.0
TELLING = ("does not reach", "no connection to the daemon", "waiting up to")
"""What an agent says in its log while it has no daemon."""

Running = Mapping[str, tuple["JobId", str]]
"""The job and the node of each pilot that runs."""


def command(
    *,
    site: SITE = None,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Look from a compute node whether pilots reach the daemon.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="S", parser=seconds, help="With --pilot: wait so many seconds for a node.")
    ] = 120.0,
) -> int:
    """Say what is wrong with the daemon that runs, and what to do."""
    from hpcserve import config

    code = OK
    for finding in _findings(site, config.read_site(site), timeout if pilot else None):
        code = max(code, checks.tell(finding))
    return code


def _findings(name: str | None, site: Site, pilot_timeout_s: float | None) -> Iterator[Finding]:
    import asyncio

    from hpcserve.cluster import site_host
    from hpcserve.cluster.site_questions import of_one_host
    from hpcserve.daemon import health

    yield checks.site_file(name, site)
    yield from checks.places(site)
    yield from site_host.containers(site)
    yield from site_host.mpi(site)
    of_job = _of_the_job(site) if site.daemon.placement == "job" else None
    published, of_record = health.record(site, of_job.told if of_job is not None and of_job.outcome == "ok" else "")
    yield of_record
    if of_job is not None:
        yield of_job
    yield health.lease(site, published)
    yield health.running(site, published)
    yield asyncio.run(of_one_host(site, health.interface(site, published)))
    yield health.ports(site, published)
    yield health.clock(site)
    status: Status | None = None
    if published is not None:
        status, answer = _asked(site)
        yield answer
    yield asyncio.run(checks.queue(site))
    silent = [each for each in (() if status is None else status.pilots) if _is_silent(each)]
    if pilot_timeout_s is None:
        yield from (_silent(site, each) for each in silent)
    else:
        yield from _of_the_pilots(site, published, silent, pilot_timeout_s)


def _of_the_job(site: Site) -> Finding:
    """What became of the job that the daemon runs in."""
    from hpcserve.cli import placed
    from hpcserve.cluster.finding import Finding
    from hpcserve.errors import HpcserveError

    try:
        jobs = placed.jobs_in_words(site)
    except HpcserveError as error:
        return Finding("job", "failed", str(error))
    if not jobs:
        return Finding("job", "failed", "no job of the daemon runs or waits; submit one: hpcserve up")
    return Finding("job", "ok", "; ".join(jobs))


def _asked(site: Site) -> tuple[Status | None, Finding]:
    """What the daemon says of itself."""
    import time

    from hpcserve.client import Client
    from hpcserve.client.engine import ASK_DOCTOR
    from hpcserve.client.services import Service
    from hpcserve.cluster.finding import Finding
    from hpcserve.errors import HpcserveError, LoginRequired
    from hpcserve.wire.admin import AskStatus, Status
    from hpcserve.wire.record import RECORD_NAME

    began_s = time.monotonic()
    try:
        with Client(Service(site.shared_dir / RECORD_NAME)) as client:
            status = client.call("status", AskStatus(), Status, timeout_s=ANSWER_S)
    except LoginRequired as error:
        why = error.message.partition(";")[0]
        return None, Finding(
            "daemon", "warning", f"it answers, and tells you nothing of its pilots ({why}): hpcserve login, then again"
        )
    except HpcserveError as error:
        return None, Finding(
            "daemon", "failed", f"{error.message.removesuffix(ASK_DOCTOR)}; look at: {site.shared_dir}/logs"
        )
    told = f"it answered within {time.monotonic() - began_s:.1f} s: {len(status.deployments)} deployments, "
    return status, Finding("daemon", "ok", f"{told}{len(status.pilots)} pilots")


def _is_silent(pilot: PilotView) -> bool:
    return pilot.state == "unreachable" or (pilot.state == "running" and pilot.pid is None)


def _silent(site: Site, pilot: PilotView, *, looked_into: bool = False) -> Finding:
    """Of a pilot whose job runs, and whose agent has not been heard of."""
    from hpcserve.cluster.finding import Finding

    told = f"job {pilot.job} runs on {pilot.host}, and its agent is not connected"
    said = _last_words(site, pilot.pilot)
    told += f"; it says: {said}" if said else f"; it says nothing yet: hpcserve logs {pilot.pilot}"
    advice = "" if looked_into or "doctor --pilot" in said else "; see: hpcserve doctor --pilot"
    return Finding(f"pilot {pilot.pilot}", "warning", f"{told}{advice}")


def _last_words(site: Site, pilot: str) -> str:
    """The last line of a pilot's log that says that there is no connection, and why."""
    try:
        lines = (site.shared_dir / "logs" / f"{pilot}.log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    found = [line for phrase in TELLING for line in lines if phrase in line]
    best = [line for line in found if TELLING[0] in line]
    return (best or found or [""])[-1]


def _of_the_pilots(
    site: Site, published: ServiceRecord | None, silent: Iterable[PilotView], timeout_s: float
) -> Iterator[Finding]:
    """What a compute node sees of the daemon: beside an agent where one runs, in a job of its own elsewhere."""
    import asyncio

    from hpcserve.cluster.diagnosis import WAY_BACK, diagnose
    from hpcserve.cluster.finding import Finding
    from hpcserve.cluster.lookout import Lookout
    from hpcserve.cluster.site_pilot import Look
    from hpcserve.daemon.record import record_path

    if published is None:
        yield Finding(WAY_BACK, "skipped", "no daemon runs, so there is nothing that pilots could reach")
        return
    yield from (_silent(site, each, looked_into=True) for each in silent)
    with Lookout(site, published) as lookout:
        look = Look(lookout.view.addresses, record_path(site.shared_dir))
        report = asyncio.run(_beside(site, [each.pilot for each in silent], look))
        if isinstance(report, Finding):
            yield report
            yield from asyncio.run(_in_a_job(site, look, lookout.view, timeout_s))
        else:
            yield from diagnose(report, lookout.view)


async def _beside(site: Site, silent: Iterable[str], look: Look) -> Report | Finding:
    """A look from the node of a pilot that runs, of a silent one if there is any; or why there is none."""
    from hpcserve.cluster.finding import Finding
    from hpcserve.cluster.site_questions import steps_in_jobs
    from hpcserve.cluster.site_step import look_beside
    from hpcserve.errors import HpcserveError

    try:
        running = await _running(site)
    except HpcserveError as error:
        return Finding("pilots", "failed", str(error))
    if not steps_in_jobs(site) or not running:
        return Finding("pilots", "skipped", "none runs whose job could be used, so a job of one minute looks")
    chosen = next((each for each in silent if each in running), next(iter(running)))
    job, node = running[chosen]
    try:
        return await look_beside(site, job, node, look)
    except HpcserveError as error:
        return Finding("pilots", "warning", f"{error}; so a job of one minute looks")


async def _running(site: Site) -> Running:
    from hpcserve.cluster.plugins import open_scheduler
    from hpcserve.daemon.controller.job import service_tag

    scheduler = open_scheduler(site)
    try:
        jobs = await scheduler.find(service_tag(site.shared_dir))
        states = await scheduler.poll(list(jobs))
    finally:
        await scheduler.close()
    return {jobs[job]: (job, state.host) for job, state in states.items() if state.phase == "running" and state.host}


async def _in_a_job(site: Site, look: Look, view: View, timeout_s: float) -> list[Finding]:
    from functools import partial

    from hpcserve.cluster.diagnosis import diagnose
    from hpcserve.cluster.plugins import open_scheduler
    from hpcserve.cluster.site_pilot import modest, try_pilot

    small = modest(site)
    scheduler = open_scheduler(small)
    try:
        return await try_pilot(small, scheduler, look, timeout_s=timeout_s, judged=partial(diagnose, view=view))
    finally:
        await scheduler.close()
