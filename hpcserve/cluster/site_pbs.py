"""Asks a PBS server whether a site's settings fit it.

What the answers mean is told in :mod:`hpcserve.cluster.pbs_findings`. PBS looks at no job script without taking it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

from hpcserve.cluster import pbs_findings
from hpcserve.cluster.finding import Asked, Finding
from hpcserve.cluster.runner import Runner
from hpcserve.cluster.script import command_environment
from hpcserve.config import Site
from hpcserve.errors import SchedulerError

COMMANDS = ("qsub", "qstat", "qselect", "qdel")


async def questions(site: Site) -> AsyncIterator[Finding]:
    """All that can be found out without submitting anything."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        told = f"{', '.join(missing)} not found in PATH; log in to a node that has them, or add /opt/pbs/bin to PATH"
        yield Finding("commands", "failed", told)
        return
    yield Finding("commands", "ok", ", ".join(COMMANDS))
    runner = Runner(timeout_s=site.scheduler.timeout_s, environment=command_environment(os.environ))
    asked = await _ask(runner, "-B")
    up = True
    for finding in pbs_findings.server(asked):
        up = up and finding.outcome != "failed"
        yield finding
    if up:
        for finding in pbs_findings.queue(site, pbs_findings.default_queue(asked), await _ask(runner, "-Q")):
            yield finding


async def _ask(runner: Runner, what: str) -> Asked:
    try:
        return await runner.run("qstat", what, "-f", "-F", "json")
    except SchedulerError as error:
        return error
