"""The real supervisor with stand-ins for children: ``daemon_driver.py CONTROL SITE [--tied] [--detach-fd N] ...``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hpcserve.config import load_site
from hpcserve.core.restarts import Policy
from hpcserve.daemon.plans import Plan, daemon_plans
from hpcserve.daemon.run import run
from hpcserve.daemon.starter import Starter
from hpcserve.daemon.timing import Timing

CHILD = str(Path(__file__).with_name("daemon_child.py"))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("control")
    parser.add_argument("site")
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--detach-fd", type=int)
    parser.add_argument("--warn-in-s", type=float)
    options = parser.parse_args()
    starter = Starter(tied=options.tied, ready_fd=options.ready_fd, detach_fd=options.detach_fd)
    site = load_site(options.site)
    plans = [
        Plan(name=plan.name, argv=(sys.executable, CHILD, plan.name, options.control, options.site), ports=plan.ports)
        for plan in daemon_plans(site, options.site)
    ]
    timing = Timing(
        ready_s=5, controller_s=2, others_s=1, stopped_s=1, restarts=Policy(first_s=0.02, longest_s=0.2, most=5)
    )
    return run(site, plans, starter, timing, warn_in_s=options.warn_in_s)


if __name__ == "__main__":
    sys.exit(main())
