"""Asks a PBS server whether a site's settings fit it.

What the answers mean is told in :mod:`hpcserve.cluster.pbs_findings` and :mod:`hpcserve.cluster.pbs_nodes`. PBS
looks at no job script without taking it.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import AsyncIterator

from hpcserve.cluster import pbs_findings, pbs_nodes
from hpcserve.cluster.finding import Asked, Finding
from hpcserve.cluster.runner import Runner
from hpcserve.cluster.script import command_environment
from hpcserve.config import Site
from hpcserve.errors import SchedulerError

COMMANDS = ("qsub", "qstat", "qselect", "qdel")
_IN_FULL = ("-f", "-F", "json")
_NODES = ("pbsnodes", "-av", "-F", "json")


async def questions(site: Site) -> AsyncIterator[Finding]:
    """All that can be found out without submitting anything."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        told = f"{', '.join(missing)} not found in PATH; log in to a node that has them, or add /opt/pbs/bin to PATH"
        yield Finding("commands", "failed", told)
        return
    yield Finding("commands", "ok", ", ".join(COMMANDS))
    runner = Runner(timeout_s=site.scheduler.timeout_s, environment=command_environment(os.environ))
    asked = await _ask(runner, "qstat", "-B", *_IN_FULL)
    up = True
    for finding in pbs_findings.server(asked):
        up = up and finding.outcome != "failed"
        yield finding
    if up:
        queues = await _ask(runner, "qstat", "-Q", *_IN_FULL)
        for finding in pbs_findings.queue(site, pbs_findings.default_queue(asked), queues):
            yield finding
        yield pbs_nodes.nodes(site, await _ask(runner, *_NODES))


async def all_nodes_are_here(site: Site) -> bool:
    """Whether all nodes that the server has are this host.

    Raises:
        SchedulerError: It does not tell.
    """
    if shutil.which(_NODES[0]) is None:
        return False
    runner = Runner(timeout_s=site.scheduler.timeout_s, environment=command_environment(os.environ))
    return pbs_nodes.all_are(socket.gethostname(), await _ask(runner, *_NODES))


async def _ask(runner: Runner, *argv: str) -> Asked:
    try:
        return await runner.run(*argv)
    except SchedulerError as error:
        return error
