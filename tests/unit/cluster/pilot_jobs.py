"""A pilot job to render, whatever the scheduler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcserve.cluster.seam import PilotJob
from hpcserve.types import PilotId


def made_up(**changes: Any) -> PilotJob:
    """A job; its paths need quoting."""
    job = PilotJob(
        pilot=PilotId("p1"),
        tag="ada",
        argv=("/opt/it's/python", "-m", "hpcserve.pilot", "--record", "/lustre/a b/$x.json"),
        directory=Path("/lustre/a b"),
        log=Path("/lustre/a b/100%j.log"),
        walltime_s=3600.0,
    )
    return replace(job, **changes)
