"""``hpcserve down``: asks the daemon to end, and waits until nothing of it runs.

A daemon that is not there is down already: that is said, and is no error. One of this user on this host that cannot
be asked, since it does not answer, or its directories were moved, or does not let its own user administer it, is
ended by a signal, with its pilots. Of a daemon that runs in a job, those jobs that wait in the queue are cancelled
first.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import time
from typing import TYPE_CHECKING, Annotated

import typer

from hpcserve.cli.broken_site import service_all_the_same
from hpcserve.cli.daemon_pids import is_daemon, noted_pid
from hpcserve.cli.elsewhere import explained
from hpcserve.cli.exits import OK
from hpcserve.cli.leaving import LOOK_BY_SSH_S, LOOK_S, Leaving
from hpcserve.cli.left import tell_left_behind, tell_left_by_the_dead, tell_left_earlier
from hpcserve.cli.options import options, seconds
from hpcserve.cli.terminal import note, waiting
from hpcserve.cli.up import SITE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hpcserve.client.services import Service
    from hpcserve.config import Site
    from hpcserve.errors import HpcserveError, ServiceUnavailable
    from hpcserve.wire.admin import GoingDown

ASK_S = 5.0
"""A daemon that has not answered after so long may have gone meanwhile."""
MOST_SHOWN = 20
"""So many of what a drain still waits for are shown."""


class Pilots(enum.Enum):
    """What becomes of the pilots."""

    KEEP = "keep"
    DRAIN = "drain"
    CANCEL = "cancel"


def command(
    ctx: typer.Context,
    *,
    site: SITE = None,
    pilots: Annotated[
        Pilots,
        typer.Option(
            help="What becomes of its pilots: cancel them; drain them first, until they have finished what they run; "
            "or keep them for the next daemon."
        ),
    ] = Pilots.CANCEL,
    timeout: Annotated[float, typer.Option(metavar="S", parser=seconds, help="Give up after so many seconds.")] = 60.0,
) -> int:
    """Take the daemon down, by default with its pilots; fine if none runs."""
    from hpcserve.errors import SchedulerError, ServiceUnavailable

    service, state_dir = _service(options(ctx).service, site)
    own = None if state_dir else _own_site(service, site)
    unseen = None if own is None else _take_back(own)
    with service.reading() as read:
        try:
            record = read()
        except ServiceUnavailable as error:
            if service.record is None:
                raise  # whether a daemon runs is not known
            _down_without_record(service, site, pilots, timeout, error)
        else:
            _take_down(Leaving(service, read, record, own, state_dir), pilots, time.monotonic() + timeout)
    if unseen is not None:
        raise SchedulerError(
            f"a job of the daemon may wait in the queue, and begin: {unseen.message}; "
            "when the batch scheduler answers again: hpcserve down"
        )
    return OK


def _service(named: str | None, site: str | None) -> tuple[Service, Path | None]:
    """What is to end; and its ``state_dir``, where that is all that is known of its site."""
    from hpcserve.client.services import find_service, of_site
    from hpcserve.errors import ConfigError

    try:
        return of_site(site) if site else find_service(named), None
    except ConfigError as error:
        return service_all_the_same(error, site)


def _take_down(daemon: Leaving, pilots: Pilots, until: float) -> None:
    record = daemon.record
    with _told_if_interrupted("the daemon may not have been told yet, and then goes on; to end it: hpcserve down"):
        going = _ask(daemon, pilots, until)
    if going is None:
        ended = f"no daemon runs any more: pid {record.pid} of {record.host} ended without a word"
        tell_left_by_the_dead(daemon.own, ended)
        return
    if going.trouble:
        note(f"its pilots, if it has any, may go on until they end by themselves: {going.trouble}")
    shown = "the daemon drains its pilots" if pilots is Pilots.DRAIN else "the daemon is going down"
    again = "hpcserve down" + ("" if pilots is Pilots.CANCEL else f" --pilots {pilots.value}")
    with _told_if_interrupted(f"{shown} all the same; to wait for it: {again}"), waiting(shown):
        _wait_gone(daemon, pilots, until)
    typer.echo(f"the daemon of site {record.site} on {record.host} is down")
    _tell_kept(going)
    tell_left_behind(daemon.service)


@contextlib.contextmanager
def _told_if_interrupted(what: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        note(f"interrupted: {what}")
        raise


def _tell_kept(going: GoingDown) -> None:
    for pilot, job in going.kept.items():
        typer.echo(f"{pilot}, job {job or 'of unknown number'}, goes on")
    if going.kept:
        typer.echo("the next hpcserve up takes them over; without one they end by themselves after pilots.orphan_s")


def _own_site(service: Service, site: str | None) -> Site | None:
    """The site that the service is of, where that is this user's own."""
    from hpcserve import config
    from hpcserve.errors import ConfigError

    try:
        found = config.load_site(site)
    except ConfigError:  # what its file says cannot be relied on
        return None
    return found if service.record is not None and service.record.parent == found.shared_dir else None


def _take_back(site: Site) -> HpcserveError | None:
    """Of a daemon that runs in a job: none of its jobs begins any more. Returns why that is not known."""
    from hpcserve.errors import HpcserveError

    if site.daemon.placement != "job":
        return None
    from hpcserve.cli import placed

    try:
        placed.tell_taken_back(placed.take_back(site))
    except HpcserveError as error:
        note(f"whether a job of the daemon waits in the queue is not known ({error.message}); the daemon is asked")
        return error
    return None


def _ask(daemon: Leaving, pilots: Pilots, until: float) -> GoingDown | None:
    """What the daemon says that will end now; None: there is none."""
    from hpcserve.errors import AuthenticationError, PermissionDenied, ServiceUnavailable
    from hpcserve.wire.admin import GoingDown

    service, record = daemon.service, daemon.record
    ends = GoingDown(pid=record.pid, host=record.host)
    may_signal = pilots is Pilots.CANCEL
    try:
        return _called(daemon, pilots, until) or ends
    except ServiceUnavailable as error:
        if not daemon.is_here:
            raise explained(daemon, error, until) from error
        if not may_signal and daemon.lives():
            if daemon.stands():
                raise
            return ends  # it was going down already
        return ends if daemon.terminate() else None
    except AuthenticationError:
        # Its keys were moved away. A record that others wrote may name any pid, one of our own daemons' too.
        own = service.record is not None and service.record.stat().st_uid == os.geteuid()
        if not own or not daemon.is_here or not may_signal or not daemon.terminate():
            raise
        return ends
    except PermissionDenied as error:
        # Its site file, or Globus, lets others administer it; whose process it is may end it all the same.
        if not daemon.is_own or not daemon.is_here or not may_signal or not daemon.terminate():
            raise
        note(f"{error.message}; but it is your own daemon, so it is ended by a signal")
        return ends


def _called(daemon: Leaving, pilots: Pilots, until: float) -> GoingDown | None:
    """The answer of the daemon; None: it has ended meanwhile, since somebody else had told it to.

    One that is silent is asked again, by the same client: by ssh each would log in. But one that may be told by a
    signal is asked once; so is one elsewhere whose lease can be watched, in what is left of the time.

    Raises:
        ServiceUnavailable: It cannot be reached, refuses, or stays silent.
    """
    from hpcserve.client import Client
    from hpcserve.errors import ServiceUnavailable
    from hpcserve.wire.admin import Down, GoingDown

    may_signal = daemon.is_here and pilots is Pilots.CANCEL
    may_watch = not daemon.is_here and daemon.own is not None
    with Client(daemon.service) as client:
        while True:
            asked = time.monotonic()
            patience_s = max(LOOK_S, min(ASK_S, until - asked))
            try:
                return client.call("down", Down(pilots=pilots.value), GoingDown, timeout_s=patience_s)
            except ServiceUnavailable:
                if may_signal:
                    raise
                refused = time.monotonic() < asked + patience_s
                if daemon.leaves(asked + patience_s):
                    return None
                if refused or may_watch or time.monotonic() >= until:
                    raise


def _down_without_record(
    service: Service, site: str | None, pilots: Pilots, timeout_s: float, why: ServiceUnavailable
) -> None:
    """Ends the daemon that the state directory knows, if one lives: its shared directory was moved or emptied.

    Raises:
        ServiceUnavailable: None is known here, but there is a part of a record, which another host's may mend.
    """
    from hpcserve import config
    from hpcserve.errors import DeadlineExceeded, ServiceUnavailable

    found = config.load_site(site)
    own = service.record is not None and service.record.parent == found.shared_dir
    pid = noted_pid(found.state_dir) if own else None
    if pid is None and service.record is not None and service.record.exists():
        raise why
    if pid is None:
        typer.echo(f"no daemon runs (no service record at {service.record})")
        if own:
            tell_left_earlier(found)
        return
    if pilots is not Pilots.CANCEL:
        raise ServiceUnavailable(
            f"the daemon (pid {pid}) cannot be asked to {pilots.value} its pilots, since there is no service record at "
            f"{service.record}; to end it with its pilots: hpcserve down"
        )
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + timeout_s
    with waiting("the daemon is going down"):
        while is_daemon(pid):
            if time.monotonic() >= until:
                raise DeadlineExceeded(f"the daemon (pid {pid}) is still going down; wait for it with: hpcserve down")
            time.sleep(LOOK_S)
    typer.echo(f"the daemon of site {found.name} is down (pid {pid}; there was no service record at {service.record})")
    tell_left_behind(service)


def _wait_gone(daemon: Leaving, pilots: Pilots, until: float) -> None:
    from hpcserve.errors import DeadlineExceeded

    record = daemon.record
    while (daemon.is_here and daemon.lives()) or daemon.stands():
        if time.monotonic() >= until:
            if pilots is Pilots.DRAIN:
                raise DeadlineExceeded(_still_draining(daemon.service))
            raise DeadlineExceeded(
                f"the daemon (pid {record.pid} on {record.host}) is still going down; wait for it with: hpcserve down"
            )
        daemon.rouse()
        time.sleep(LOOK_S if daemon.service.record is not None else LOOK_BY_SSH_S)


def _still_draining(service: Service) -> str:
    """What a drain that goes on waits for."""
    from hpcserve.client import Client
    from hpcserve.errors import HpcserveError
    from hpcserve.wire.admin import AskStatus, Status

    try:
        with Client(service) as client:
            found = client.call("status", AskStatus(), Status)
    except HpcserveError as error:
        left = f"what is left cannot be told: {error}"
    else:
        held = [each for deployment in found.deployments for each in deployment.replicas if each.waiting]
        told = [f"{each.waiting} requests at {each.replica}" for each in held]
        told += [f"{each.pilot} ({each.state}, job {each.job or 'of unknown number'})" for each in found.pilots]
        left = f"left: {', '.join(told[:MOST_SHOWN])}{', …' if len(told) > MOST_SHOWN else ''}"
    return (
        f"the daemon still drains its pilots, and goes down when they have ended; {left}; "
        "wait for it with: hpcserve down --pilots drain; or end them now: hpcserve down"
    )
