"""``hpcserve up``: starts a daemon, and by default stays with it.

In the foreground this process stays beside the daemon instead of becoming it: it is what the terminal's Ctrl-C
reaches, it waits until the daemon and its pilots are gone, and it owns the exit code. It sleeps until the daemon
ends and has imported neither a client nor numpy, so it costs no time on the CPU and some 20 MB. Killed, it takes the
daemon with it. Where the site wants the daemon in a job of its own, :mod:`hpcserve.cli.placed` does all that.
"""

from __future__ import annotations

import shlex
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.exits import OK
from hpcserve.cli.streams import OutputLost, discard_output
from hpcserve.cli.terminal import note

if TYPE_CHECKING:
    from hpcserve.cli.daemon_process import DaemonProcess, StopRequests
    from hpcserve.wire.record import ServiceRecord

LEASE_LOST = 3
"""The daemon's exit code when another one has taken its place."""

SITE = Annotated[str | None, typer.Option(metavar="NAME|PATH", help="The site: a name, or the path of a site file.")]


def command(
    *,
    site: SITE = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as the daemon is ready.")] = False,
) -> int:
    """Start a daemon and stay with it: Ctrl-C takes it down."""
    from hpcserve.cli.daemon_process import DaemonProcess, StopRequests

    requests = StopRequests()
    try:
        daemon = DaemonProcess(site, tied=not detach)
        requests.watch(daemon)
        record = daemon.wait_ready()
        if record is not None or daemon.is_elsewhere:
            _warn(site)
        if record is not None:
            return _leave(daemon, record, requests, site) if detach else _stay(daemon, record, requests)
        if requests.number or not daemon.is_elsewhere:
            return _signalled(requests)
    finally:
        requests.close()
    return _in_a_job(site, detach=detach)


def _warn(site: str | None) -> None:
    """Of what shows only when somebody's result is to travel."""
    from hpcserve import config
    from hpcserve.cli.checks import staging

    for finding in staging(config.load_site(site)):
        note(f"warning: {finding.told}")


def _in_a_job(site: str | None, *, detach: bool) -> int:
    from hpcserve import config
    from hpcserve.cli import placed

    found = config.load_site(site)
    job, record = placed.bring_up(found, site)
    if detach:
        _tell(f"{_where(record)}, in job {job}\ntake it down: hpcserve down{_named(site)}")
        return OK
    try:
        _tell(f"{_where(record)}, in job {job}\ntake it down: Ctrl-C here, or hpcserve down elsewhere")
        placed.stay(found, job)
    except KeyboardInterrupt:
        placed.take_down(found, job)
    note("the daemon is down, or its job has ended; the next hpcserve up takes over what it has left")
    return OK


def _leave(daemon: DaemonProcess, record: ServiceRecord, requests: StopRequests, site: str | None) -> int:
    if requests.number:
        daemon.wait()
        return _signalled(requests)
    daemon.keep()
    _tell(f"{_where(record)}\ntake it down: hpcserve down{_named(site)}")
    return OK


def _named(site: str | None) -> str:
    """What other commands have to be told, where this one was told a site."""
    if site is None:
        return ""
    quoted = shlex.quote(site)
    return f" --site {quoted}\nfor the other commands: export HPCSERVE_SITE={quoted}"


def _stay(daemon: DaemonProcess, record: ServiceRecord, requests: StopRequests) -> int:
    from hpcserve.errors import Conflict, HpcserveError

    if not requests.number:
        _tell(f"{_where(record)}\ntake it down: Ctrl-C here, or hpcserve down elsewhere")
    code = daemon.wait()
    if code == 0:
        note("the daemon is down")
        return OK
    told = daemon.last_words()
    raise (Conflict if code == LEASE_LOST else HpcserveError)(f"the daemon ended with code {code}: {told}")


def _tell(message: str) -> None:
    """Says it on standard output, else on standard error: the daemon runs, whoever hears of it."""
    try:
        typer.echo(message)
    except (OutputLost, BrokenPipeError):
        discard_output()
        note(message)


def _where(record: ServiceRecord) -> str:
    return f"{record.software} serves site {record.site} on {record.host} (pid {record.pid})"


def _signalled(requests: StopRequests) -> int:
    return 128 + (requests.number or signal.SIGINT)
