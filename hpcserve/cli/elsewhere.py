"""A daemon on another host that does not answer: whether its lease is still renewed, and what to do about it then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcserve.cli.terminal import waiting

if TYPE_CHECKING:
    from hpcserve.cli.leaving import Leaving
    from hpcserve.errors import ServiceUnavailable


def explained(daemon: Leaving, error: ServiceUnavailable, until: float) -> ServiceUnavailable:
    """The error of a daemon that cannot be asked, with what to do.

    Args:
        daemon: The daemon, on another host.
        error: Why it cannot be asked.
        until: So long its lease is watched, by the clock of :func:`time.monotonic`, if it has to be.
    """
    from hpcserve.daemon.lease import watch
    from hpcserve.errors import ServiceUnavailable

    record = daemon.record
    whose = f"the daemon (pid {record.pid}) on {record.host}"
    if daemon.own is None:
        return ServiceUnavailable(f"{error.message}; take {whose} down there: hpcserve down")
    with waiting(f"{whose} does not answer; its lease is watched"):
        found = watch(daemon.own.shared_dir, until)
    if found.renewed:
        what = f"{whose} lives, as its lease is renewed; take it down there: hpcserve down"
    elif not found.long_enough:
        what = (
            f"whether {whose} lives was not watched for long enough; once more, with a longer --timeout: hpcserve down"
        )
    else:
        told = "its lease was given back" if found.released else f"its lease was not renewed for {found.for_s:.0f} s"
        take_over = "to end it and its pilots: hpcserve up, which takes its place, then hpcserve down"
        what = f"{told}, so {whose} may be dead; {take_over}; else they end by themselves after pilots.orphan_s"
    return ServiceUnavailable(f"{error.message}; {what}")
