"""``python -m hpcserve.daemon [--site SITE] [--tied] [--placed] [--ready-fd N] [--detach-fd N]``: a whole daemon."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from hpcserve.cluster.processes import age_s
from hpcserve.config import Site, load_site, site_named
from hpcserve.daemon import streams
from hpcserve.daemon.launch import DaemonReport, close_proc, in_json, leave_no_core
from hpcserve.daemon.plans import daemon_plans, site_option
from hpcserve.daemon.run import run
from hpcserve.daemon.starter import Starter
from hpcserve.daemon.supervisor import EXIT_DOWN, EXIT_FAILED
from hpcserve.errors import ConfigError


def main() -> int:
    """Runs a daemon; its exit code says how it ended."""
    streams.hold()
    leave_no_core()
    parser = argparse.ArgumentParser(prog="python -m hpcserve.daemon", description="Runs an hpcserve daemon.")
    parser.add_argument("--site", help="the name of a site or the path of its file")
    parser.add_argument("--tied", action="store_true", help="go down when standard input ends")
    parser.add_argument("--ready-fd", type=int, help="where to write one line when ready, or why not")
    parser.add_argument("--placed", action="store_true", help="run in a job: leave the pilots when it ends")
    parser.add_argument("--detach-fd", type=int, help="go down when this ends before a byte 'k' has come")
    parser.add_argument("--warn-s", type=float, default=0.0, help="the warning comes so long before its job's end")
    parser.add_argument("--walltime-s", type=float, help="no SIGUSR1 comes; its job ends so long after it began")
    for of_agents in ("--restart", "--nodes"):
        parser.add_argument(of_agents, help="what the script of a job adds for agents; not used")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    starter = Starter(tied=options.tied, ready_fd=options.ready_fd, detach_fd=options.detach_fd)
    option = site_option(options.site)
    try:
        site = load_site(option)
        if site.daemon.placement == "job" and not options.placed:
            starter.report(DaemonReport(elsewhere=True))
            return EXIT_DOWN
        if site.mode == "service":
            close_proc()
        _check(site)
    except ConfigError as error:
        logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 (said in full; a traceback adds nothing)
        starter.report(DaemonReport(error=in_json(error)))
        return EXIT_FAILED
    placed = site_named(option) if options.placed else ""
    warn_in_s = None if options.walltime_s is None else options.walltime_s - options.warn_s - age_s()
    return run(site, daemon_plans(site, option, placed=placed), starter, warn_in_s=warn_in_s)


def _check(site: Site) -> None:
    """Fails where the site's scheduler cannot be used; of the local one there is nothing to try."""
    if site.scheduler.kind == "local":
        return
    from hpcserve.cluster import plugins  # here: a supervisor has no other use for it, and it is slow to load

    asyncio.run(plugins.check(site))


if __name__ == "__main__":
    sys.exit(main())
