"""What a pilot's job runs, and where its files are. Submits nothing."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from hpcserve.cluster.seam import PilotJob
from hpcserve.config import Site
from hpcserve.daemon.launch import ENROLMENTS
from hpcserve.types import PilotId


def pilot_job(site: Site, pilot: PilotId, record: Path) -> PilotJob:
    """The job of one pilot.

    Args:
        site: Its site.
        pilot: The pilot.
        record: The service record, by which its agent finds the daemon.
    """
    python = site.pilots.python or sys.executable
    enrolment = site.shared_dir / ENROLMENTS / pilot
    return PilotJob(
        pilot=pilot,
        tag=service_tag(site.shared_dir),
        argv=(python, "-P", "-m", "hpcserve.pilot", "--record", str(record), "--enrolment", str(enrolment)),
        directory=site.shared_dir,
        log=site.shared_dir / "logs" / f"{pilot}.log",
        walltime_s=site.pilots.walltime_s,
    )


def service_tag(shared_dir: Path) -> str:
    """Names a service among all of its user's: no two daemons share a directory."""
    return hashlib.sha256(os.fsencode(shared_dir)).hexdigest()[:8]
