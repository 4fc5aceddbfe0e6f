"""``python -m hpcserve.pilot --record PATH --enrolment PREFIX``: the first process of a pilot job.

A job script that starts it by ``exec`` lets it know how old the job is, and get the scheduler's signals.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

from hpcserve.cluster.processes import age_s
from hpcserve.cluster.signals import Signals
from hpcserve.errors import HpcserveError
from hpcserve.pilot.agent import Agent, JobFacts
from hpcserve.pilot.enrolment import NotEnrolled, UsedUp, use_up, wait_for_enrolment
from hpcserve.types import ENROLMENT_WAIT_S
from hpcserve.wire import exits
from hpcserve.wire.launch import enrolment_name

_log = logging.getLogger(__name__)


def main() -> int:
    """Runs an agent; its exit code is one of :mod:`hpcserve.wire.exits`."""
    signals = Signals(warning=signal.SIGUSR1)
    options = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    job = JobFacts(
        began_s=time.monotonic() - age_s(),
        nodes=tuple(options.nodes.split(",")) if options.nodes else (socket.gethostname(),),
        warn_s=options.warn_s,
    )
    if options.walltime_s:
        signals.warn_in(job.began_s + options.walltime_s - options.warn_s - time.monotonic())
    path = Path(enrolment_name(options.enrolment, options.restart))
    try:
        enrolment = wait_for_enrolment(path, wait_s=options.wait_s, signals=signals)
        if enrolment is None:
            _log.info("ended by %s before it was enrolled", signals.stop)
            return exits.OK
        enrolled = partial(use_up, path)
        return Agent(options.record, enrolment, job=job, signals=signals, enrolled=enrolled).run()
    except UsedUp as error:
        _log.error("%s", error)
        return exits.REFUSED
    except HpcserveError as error:
        _log.error("%s", error)
        return exits.NO_ENROLMENT if isinstance(error, NotEnrolled) else exits.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hpcserve.pilot", description="Runs the agent of a pilot job.")
    parser.add_argument("--record", type=Path, required=True, help="the service record")
    parser.add_argument("--enrolment", required=True, help="the path of the enrolment file, without .N.json")
    parser.add_argument("--restart", type=int, default=0, help="how often the job was begun anew: that N")
    parser.add_argument("--nodes", default="", help="the names of the job's nodes, with commas in between")
    parser.add_argument("--warn-s", type=float, default=0.0, help="the warning comes so long before the job's end")
    parser.add_argument(
        "--walltime-s", type=float, default=0.0, help="no SIGUSR1 comes; the job ends so long after it began"
    )
    parser.add_argument(
        "--wait-s", type=float, default=ENROLMENT_WAIT_S, help="how long to wait for the enrolment file"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
