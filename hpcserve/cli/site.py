"""``hpcserve site``: which sites there are, what one would submit, and whether it fits the cluster that it is for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli import checks
from hpcserve.cli.exits import OK
from hpcserve.cli.options import seconds
from hpcserve.cli.terminal import note

if TYPE_CHECKING:
    from hpcserve.cluster.finding import Finding
    from hpcserve.cluster.site_host import Doors
    from hpcserve.config import Site

app = typer.Typer(help="List the sites, look at one's job script, and try one.", rich_markup_mode=None)

NAME = Annotated[str | None, typer.Argument(metavar="NAME|PATH", help="The site; default HPCSERVE_SITE, else local.")]
PILOT = "p0"
"""A pilot that is not there, whose job script is shown."""


@app.command("list")
def _list() -> None:
    """List the sites that can be named; * marks the one in use."""
    from hpcserve import config
    from hpcserve.cli.terminal import show, table

    used = config.site_named(None)
    shown = table("", "name", "scheduler", "file", "to do")
    for name, place in config.site_names().items():
        shown.add_row("*" if name == used else "", name, *_told(name, place))
    show(shown)


def _told(name: str, place: str) -> tuple[str, str, str]:
    """Its scheduler, its file, and what keeps it from being used."""
    from hpcserve import config
    from hpcserve.errors import ConfigError

    kind = "?"
    try:
        kind = config.read_site(name).scheduler.kind
        config.load_site(name)
    except ConfigError as error:
        return kind, place, str(error).removeprefix(f"{place}: ").partition(";")[0]
    return kind, place, ""


@app.command("show")
def _show(name: NAME = None) -> None:
    """Print a site's file, with the comments that say where its values come from."""
    from hpcserve import config

    source, text = config.site_text(name)
    typer.echo(f"# {source}\n{text}", nl=False)


@app.command("render")
def _render(name: NAME = None) -> None:
    """Print the job script that would be submitted for a pilot."""
    from hpcserve import config
    from hpcserve.errors import ConfigError

    typer.echo(_script(config.read_site(name)), nl=False)
    try:
        config.load_site(name)
    except ConfigError as error:
        note(f"it would not be submitted yet: {error}")


@app.command("check")
def _check(
    name: NAME = None,
    *,
    submit: Annotated[
        bool | None,
        typer.Option("--submit/--no-submit", help="Try a job of one minute; default: yes, unless the site is local."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="S", parser=seconds, help="Wait so many seconds for that job.")
    ] = 120.0,
) -> int:
    """Try a site from here: its file, the scheduler, the network, the directories, and a job of one minute."""
    import asyncio

    from hpcserve import config

    site = config.read_site(name)
    wanted = site.scheduler.kind != "local" if submit is None else submit
    with checks.as_before(site):
        return asyncio.run(_checked(name, site, timeout if wanted else None))


async def _checked(name: str | None, site: Site, timeout_s: float | None) -> int:
    """Tells each finding as soon as it is known; the exit code."""
    code = OK
    async for finding in _findings(name, site, timeout_s):
        code = max(code, checks.tell(finding))
    return code


async def _findings(name: str | None, site: Site, timeout_s: float | None) -> AsyncIterator[Finding]:
    from hpcserve.cluster import site_host

    first = checks.site_file(name, site)
    failed = first.outcome == "failed"
    doors = None if site.daemon.placement == "job" else site_host.Doors(site)
    try:
        yield first
        for finding in (
            await _of_the_network(site, doors),
            *(() if doors is None else _of_ports(site, doors)),
            *checks.places(site),
            *checks.staging(site),
            *checks.globus(site),
            *site_host.containers(site),
            *site_host.mpi(site),
        ):
            failed = failed or finding.outcome == "failed"
            yield finding
        async for finding in _of_the_scheduler(site):
            failed = failed or finding.outcome == "failed"
            yield finding
        async for finding in _of_a_pilot(site, doors, timeout_s, hopeless=failed):
            yield finding
    finally:
        if doors is not None:
            doors.close()


async def _of_the_network(site: Site, doors: Doors | None) -> Finding:
    from hpcserve.cluster import site_host
    from hpcserve.cluster.site_questions import of_one_host

    if doors is None:
        return site_host.of_a_node(site)
    return await of_one_host(site, site_host.network(site, doors))


def _of_ports(site: Site, doors: Doors) -> Iterator[Finding]:
    """Whether a daemon can have all its sockets here; nothing where the interface is wrong."""
    from hpcserve.daemon import health

    if not doors.error:
        yield health.room(doors, health.record(site)[0])


async def _of_the_scheduler(site: Site) -> AsyncIterator[Finding]:
    from hpcserve.auth.private import private_directory
    from hpcserve.cluster.finding import Finding
    from hpcserve.cluster.plugins import open_scheduler
    from hpcserve.cluster.script import has_script
    from hpcserve.cluster.site_questions import questions
    from hpcserve.daemon import placement
    from hpcserve.errors import HpcserveError

    try:
        private_directory(site.state_dir)  # a scheduler may keep files in it
        await open_scheduler(site).close()  # it may be of a kind that is not installed
        script = _script(site) if has_script(site) else ""
        if script and site.daemon.placement == "job":
            placement.check_script(site)
    except HpcserveError as error:
        yield Finding("scheduler", "failed", str(error))
        return
    yield Finding("scheduler", "ok", site.scheduler.kind)
    async for finding in questions(site, script, _user()):
        yield finding
    yield await checks.queue(site)


async def _of_a_pilot(
    site: Site, doors: Doors | None, timeout_s: float | None, *, hopeless: bool
) -> AsyncIterator[Finding]:
    """What a job sees: whether it reaches the doors, or where there are none if a daemon could run on its node."""
    from hpcserve.cluster.finding import Finding
    from hpcserve.cluster.plugins import open_scheduler
    from hpcserve.cluster.site_pilot import Look, houses, modest, reaches, try_pilot
    from hpcserve.cluster.site_questions import of_a_home

    if timeout_s is None:
        yield Finding("pilot", "skipped", "no job was submitted: see --submit")
        return
    if hopeless:
        yield Finding("pilot", "skipped", "no job was submitted: first correct what failed above")
        return
    small = modest(site)
    scheduler = open_scheduler(small)
    look, judged = (of_a_home(site), houses) if doors is None else (Look(doors.addresses), reaches)
    try:
        for finding in await try_pilot(small, scheduler, look, timeout_s=timeout_s, judged=judged):
            yield finding
    finally:
        await scheduler.close()


def _script(site: Site) -> str:
    from hpcserve.cluster.script import job_script
    from hpcserve.cluster.seam import job_name
    from hpcserve.daemon.controller.job import pilot_job
    from hpcserve.types import PilotId
    from hpcserve.wire.record import RECORD_NAME

    job = pilot_job(site, PilotId(PILOT), site.shared_dir / RECORD_NAME)
    return job_script(site, job, job_name(job.tag, job.pilot))


def _user() -> str:
    import os
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
