"""Asks a Slurm cluster whether a site's settings fit it.

What the answers mean is told in :mod:`hpcserve.cluster.slurm_findings`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator

from hpcserve.cluster import slurm_findings
from hpcserve.cluster.finding import Asked, Finding
from hpcserve.cluster.runner import Runner
from hpcserve.cluster.script import command_environment
from hpcserve.cluster.slurm_pyslurm import usable
from hpcserve.config import Site
from hpcserve.errors import SchedulerError

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")


async def questions(site: Site, script: str, user: str) -> AsyncIterator[Finding]:
    """All that can be found out without submitting anything.

    Args:
        site: The site.
        script: The job script that it would submit.
        user: Who would submit it.
    """
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        told = f"{', '.join(missing)} not found in PATH; log in to a node that has them, or load Slurm's module"
        yield Finding("commands", "failed", told)
        return
    yield Finding("commands", "ok", ", ".join(COMMANDS))
    runner = Runner(timeout_s=site.scheduler.timeout_s, environment=command_environment(os.environ))
    yield slurm_findings.version(await _ask(runner, "sinfo", "--version"))
    wanted = site.scheduler.transport
    unusable = "" if wanted == "commands" else await usable(site.scheduler.timeout_s)
    yield slurm_findings.transport(wanted, unusable)
    if site.pilots.launcher == "srun":
        yield slurm_findings.mpi(site.mpi.pmi, await _ask(runner, "srun", "--mpi=list"))
    up = slurm_findings.controller(await _ask(runner, "scontrol", "ping"))
    yield up
    if up.outcome == "ok":
        async for finding in _of_the_job(site, script, user, runner):
            yield finding


async def _of_the_job(site: Site, script: str, user: str, runner: Runner) -> AsyncIterator[Finding]:
    mine = ("show", "associations", f"user={user}", "format=account,partition,qos")
    for finding in slurm_findings.account(
        site.pilots, await _ask(runner, "sacctmgr", "--noheader", "--parsable2", *mine)
    ):
        yield finding
    yield slurm_findings.partition(site.pilots, await _ask(runner, "scontrol", "--oneliner", "show", "partition"))
    yield slurm_findings.nodes(site.pilots, await _ask(runner, "sinfo", "--noheader", "--format=%P %T"))
    if site.pilots.constraint:
        yield slurm_findings.constraint(site.pilots, await _ask(runner, "sinfo", "--noheader", "--format=%f"))
    yield slurm_findings.submission(await _ask(runner, "sbatch", "--test-only", stdin=script.encode()))


async def _ask(runner: Runner, *argv: str, stdin: bytes = b"") -> Asked:
    try:
        return await runner.run(*argv, stdin=stdin)
    except SchedulerError as error:
        return error
