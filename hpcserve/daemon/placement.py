"""``[daemon] placement = "job"``: the job that a daemon runs in, and the one after it.

The job has the daemon for its one process. A signal that ends it, its walltime, scancel or a preemption, leaves the
pilots to the next daemon; only ``hpcserve down`` ends them. Of all such jobs of a service the batch scheduler begins
one at a time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from hpcserve.cluster.plugins import open_scheduler
from hpcserve.cluster.script import job_script
from hpcserve.cluster.seam import JobId, PilotJob, Scheduler, job_name
from hpcserve.config import Site, variables_of
from hpcserve.daemon.controller.job import service_tag
from hpcserve.daemon.logs import log_path
from hpcserve.daemon.placing import Placing, said_of_the_daemon
from hpcserve.types import PilotId

NAME = PilotId("0")
"""All have one name, by which a scheduler knows that they are for one place."""


def tag_of(site: Site) -> str:
    """What finds the jobs again. That of pilots is another: of those, a daemon ends what it does not know."""
    return f"daemon-{service_tag(site.shared_dir)}"


def job_log(site: Site) -> Path:
    """What the daemon's job prints: what the scheduler and the script say, and why a daemon could not start."""
    return log_path(site.shared_dir, "job")


def open_placing(site: Site) -> Scheduler:
    """The site's scheduler, for jobs that ask for what ``[daemon]`` says."""
    return Placing(open_scheduler(_asking(site)))


def check_script(site: Site) -> None:
    """Whether the script of such a job can be made.

    Raises:
        ConfigError: It cannot, as ``[daemon]`` is.
    """
    job = _job(site, ())
    with said_of_the_daemon():
        job_script(_asking(site), job, job_name(job.tag, job.pilot))


def _asking(site: Site) -> Site:
    """The site with ``[daemon]`` in the place of ``[pilots]``."""
    daemon = site.daemon
    pilots = msgspec.structs.replace(
        site.pilots,
        nodes=1,
        min_nodes=0,
        min_walltime_s=0.0,
        launcher="process",
        gpus_per_node=0,
        exclusive=False,
        requeue=False,
        reservation="",
        walltime_s=daemon.walltime_s,
        warn_s=daemon.warn_s,
        account=daemon.account,
        partition=daemon.partition,
        qos=daemon.qos,
        constraint=daemon.constraint,
        cpus_per_node=daemon.cpus_per_node,
        memory_per_node_mib=daemon.memory_per_node_mib,
        directives=daemon.directives,
    )
    return msgspec.structs.replace(site, pilots=pilots)


def daemon_job(site: Site, option: str) -> PilotJob:
    """The job of a daemon.

    Args:
        site: Its site.
        option: What names the site there: a name, or a path from the root.
    """
    variables = [f"{name}={value}" for name, value in variables_of(option).items()]
    python = site.pilots.python or sys.executable
    daemon = (python, "-P", "-m", "hpcserve.daemon", "--site", option, "--placed")
    return _job(site, ("env", *variables, *daemon))


def _job(site: Site, argv: tuple[str, ...]) -> PilotJob:
    return PilotJob(
        pilot=NAME,
        tag=tag_of(site),
        argv=argv,
        directory=site.shared_dir,
        log=job_log(site),
        walltime_s=site.daemon.walltime_s,
        single=True,
    )


async def submit(site: Site, option: str) -> JobId:
    """Submits the job of the next daemon; see :func:`daemon_job`. One that waits already will do.

    It may be there since the answer to a submission was lost, or a controller before this one.

    Raises:
        SchedulerError: The scheduler does not answer, or does not take it.
    """
    scheduler = open_placing(site)
    try:
        found = await scheduler.poll(list(await scheduler.find(tag_of(site))))
        waits = next((job for job, state in found.items() if state.phase == "queued"), None)
        return waits or await scheduler.submit(daemon_job(site, option))
    finally:
        await scheduler.close()
