"""Looks around on a compute node beside an agent, in the job that it runs in: no queue stands in between.

Slurm alone: a job step that shares all that the job has. Where nothing comes of it, a job of one's own will tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import time

from hpcserve.cluster.launchers import SrunLauncher
from hpcserve.cluster.probe import Report
from hpcserve.cluster.runner import Runner, failure
from hpcserve.cluster.script import command_environment
from hpcserve.cluster.seam import JobId
from hpcserve.cluster.site_pilot import Look, read_report, report_of
from hpcserve.config import Site
from hpcserve.errors import SchedulerError
from hpcserve.wire.launch import MpiRules

STEP_S = 20.0
_LOOK_S = 0.1


async def look_beside(site: Site, job: JobId, node: str, look: Look) -> Report:
    """Runs the probe on a node of a job of ours.

    Args:
        site: The site.
        job: The job, which runs.
        node: Where.
        look: What to look at.

    Raises:
        SchedulerError: Nothing came of it, and why.
    """
    directory = site.shared_dir / f"doctor-{secrets.token_hex(4)}"
    directory.mkdir(mode=0o700)
    runner = Runner(timeout_s=STEP_S, environment=command_environment(os.environ))
    command = SrunLauncher(MpiRules()).command(look.argv(site, report_of(directory)), node)
    step = asyncio.create_task(runner.run(command[0], f"--jobid={job}", f"--chdir={directory}", *command[1:]))
    began_s = time.monotonic()
    try:
        while True:
            is_over = step.done()  # asked first: the report is there before the step is over
            report = read_report(directory)
            if report is not None:
                return report
            if is_over:
                answer = await step
                raise failure(answer)
            if time.monotonic() >= began_s + STEP_S:
                raise SchedulerError(f"srun began no step in job {job} within {STEP_S:g} s")
            await asyncio.wait([step], timeout=_LOOK_S)
    finally:
        step.cancel()
        with contextlib.suppress(asyncio.CancelledError, SchedulerError):
            await step
        shutil.rmtree(directory, ignore_errors=True)
