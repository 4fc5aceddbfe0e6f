"""``hpcserve down``: asks the daemon to end, and waits until nothing of it runs.

A daemon that is not there is down already: that is said, and is no error. One of this user on this host that cannot
be asked, since it does not answer, or its directories were moved, is ended by a signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.exits import OK
from hpcserve.cli.options import options, seconds
from hpcserve.cli.terminal import waiting
from hpcserve.cli.up import SITE

if TYPE_CHECKING:
    from pathlib import Path

    from hpcserve.client.services import Service
    from hpcserve.wire.record import ServiceRecord

LOOK_S = 0.05


def command(
    ctx: typer.Context,
    *,
    site: SITE = None,
    timeout: Annotated[float, typer.Option(metavar="S", parser=seconds, help="Give up after so many seconds.")] = 60.0,
) -> int:
    """Take the daemon down, with its pilots; fine if none runs."""
    from hpcserve.client.services import find_service, of_site
    from hpcserve.errors import ServiceUnavailable

    service = of_site(site) if site else find_service(options(ctx).service)
    _take_back(service, site)
    try:
        record = service.read()
    except ServiceUnavailable:
        return _without_record(service, site, timeout)
    until = time.monotonic() + timeout
    if _ask(service, record, timeout):
        with waiting("the daemon is going down"):
            _wait_gone(service, record, until)
        typer.echo(f"the daemon of site {record.site} on {record.host} is down")
        _tell_left_behind(service)
    else:
        typer.echo(
            f"no daemon runs any more: pid {record.pid} of {record.host} ended without a word; "
            "pilots that it has left end by themselves after pilots.orphan_s; "
            "to end them now: hpcserve up, then hpcserve down"
        )
    return OK


def _take_back(service: Service, site: str | None) -> None:
    """Of a daemon that runs in a job: none of its jobs begins any more."""
    from hpcserve import config
    from hpcserve.errors import ConfigError

    with contextlib.suppress(ConfigError):  # the site's file is not complete yet: nothing of it can run
        found = config.load_site(site)
        if found.daemon.placement == "job" and service.record.parent == found.shared_dir:
            from hpcserve.cli import placed

            placed.tell_taken_back(placed.take_back(found))


def _tell_left_behind(service: Service) -> None:
    """Shows the pilots that may go on.

    Raises:
        SchedulerError: Pilots may go on, since the scheduler did not say that they have ended.
    """
    from hpcserve.daemon import leftovers
    from hpcserve.errors import SchedulerError

    left = leftovers.read(service.record.parent)
    if not left:
        return
    for each in left:
        typer.echo(f"{each.pilot}, job {each.job or 'of unknown number'}, may go on: {each.cause}", err=True)
    jobs = " ".join(each.job for each in left if each.job)
    raise SchedulerError(
        f"the batch scheduler did not confirm the end of {len(left)} pilot(s), which end by themselves after "
        "pilots.orphan_s once they run; to end them when it answers again: hpcserve up, then hpcserve down"
        + (f"; or cancel the jobs yourself: {jobs}" if jobs else "")
    )


def _ask(service: Service, record: ServiceRecord, timeout_s: float) -> bool:
    """Whether there is a daemon that will end now."""
    from hpcserve.client import Client
    from hpcserve.errors import AuthenticationError, ServiceUnavailable
    from hpcserve.wire.admin import Down, GoingDown

    try:
        with Client(service) as client:
            client.call("down", Down(), GoingDown, timeout_s=timeout_s)
    except ServiceUnavailable:
        if record.host != socket.gethostname():
            raise
        return _signal(record)
    except AuthenticationError:
        # Its keys were moved away. A record that others wrote may name any pid, one of our own daemons' too.
        ours = service.record.stat().st_uid == os.geteuid()
        if record.host != socket.gethostname() or not ours or not _signal(record):
            raise
    return True


def _without_record(service: Service, site: str | None, timeout_s: float) -> int:
    """Ends the daemon that the state directory knows, if one lives: its shared directory was moved or emptied."""
    from hpcserve import config
    from hpcserve.errors import DeadlineExceeded

    found = config.load_site(site)
    pid = noted_pid(found.state_dir) if service.record.parent == found.shared_dir else None
    if pid is None:
        typer.echo(f"no daemon runs (no service record at {service.record})")
        return OK
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + timeout_s
    with waiting("the daemon is going down"):
        while _is_daemon(pid):
            if time.monotonic() >= until:
                raise DeadlineExceeded(f"the daemon (pid {pid}) is still going down; wait for it with: hpcserve down")
            time.sleep(LOOK_S)
    typer.echo(f"the daemon of site {found.name} is down (pid {pid}; there was no service record at {service.record})")
    return OK


def noted_pid(state_dir: Path) -> int | None:
    """The supervisor that the runtime directory names, if it runs here. Another host may use the directory as well."""
    import msgspec

    from hpcserve import config
    from hpcserve.daemon.launch import PROCESSES

    try:
        noted = msgspec.json.decode((config.runtime_dir(state_dir) / PROCESSES).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        return None
    supervisor = noted.pop("supervisor", None)
    # Its pid may be that of another daemon by now; those of its children as well is beyond chance.
    lives = supervisor is not None and _is_daemon(supervisor) and any(map(_is_daemon, noted.values()))
    return supervisor if lives else None


def _signal(record: ServiceRecord) -> bool:
    """The supervisor of a daemon that cannot be asked is told by a signal; False: it does not live."""
    if not _lives(record):
        return False
    os.kill(record.pid, signal.SIGTERM)
    return True


def _lives(record: ServiceRecord) -> bool:
    """Whether the supervisor of a daemon on this host runs."""
    return _is_daemon(record.pid)


def _is_daemon(pid: int) -> bool:
    """Whether this process belongs to a daemon. A pid alone is no proof: pids are given again."""
    from pathlib import Path

    from hpcserve.cluster.processes import start_time

    if start_time(pid) is None:
        return False
    try:
        return b"hpcserve.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()  # a system without /proc: believe the pid


def _wait_gone(service: Service, record: ServiceRecord, until: float) -> None:
    from hpcserve.errors import DeadlineExceeded

    here = record.host == socket.gethostname()
    while (here and _lives(record)) or _stands(service, record):
        if time.monotonic() >= until:
            raise DeadlineExceeded(
                f"the daemon (pid {record.pid} on {record.host}) is still going down; wait for it with: hpcserve down"
            )
        time.sleep(LOOK_S)


def _stands(service: Service, record: ServiceRecord) -> bool:
    """Whether the record is still that daemon's. One that was killed meanwhile leaves it behind."""
    from hpcserve.errors import AuthenticationError, ServiceUnavailable

    try:
        now = service.read()
    except (ServiceUnavailable, AuthenticationError):
        return False
    same = (now.host, now.pid) == (record.host, record.pid)
    return same and (record.host != socket.gethostname() or _lives(record))
