"""What is asked of the batch scheduler of a site, before a daemon or a job of it is there.

Nothing of one that another package brings along: of that its own adapter knows alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from hpcserve.cluster import interfaces
from hpcserve.cluster.finding import Finding
from hpcserve.cluster.site_pilot import Look
from hpcserve.config import Site
from hpcserve.errors import ConfigError, SchedulerError

_STEPS_IN_JOBS = frozenset({"slurm"})


async def questions(site: Site, script: str, user: str) -> AsyncIterator[Finding]:
    """All that can be found out of the scheduler without submitting anything.

    Args:
        site: The site.
        script: The job script that it would submit.
        user: Who would submit it.
    """
    if site.scheduler.kind == "slurm":
        from hpcserve.cluster import site_slurm

        found = site_slurm.questions(site, script, user)
    elif site.scheduler.kind == "pbs":
        from hpcserve.cluster import site_pbs

        found = site_pbs.questions(site)
    else:
        return
    async for finding in found:
        yield finding


async def of_one_host(site: Site, found: Finding) -> Finding:
    """A finding of the interface; where it is one that other hosts cannot reach, only if there are other hosts.

    Where the scheduler is asked for its nodes and does not answer, nothing is concluded.
    """
    if found.outcome != "failed" or site.scheduler.kind != "pbs":
        return found
    from hpcserve.cluster import site_host, site_pbs

    try:
        address = interfaces.resolve(site.network.host)
    except ConfigError:
        return found
    if not site_host.is_loopback(address) or found != site_host.interface(site, address):
        return found
    try:
        are_here = await site_pbs.all_nodes_are_here(site)
    except SchedulerError as error:
        told = f"{address}, which other hosts cannot reach; whether there are others is not known: {error.message}"
        return Finding(found.subject, "skipped", told)
    if not are_here:
        return found
    return Finding(found.subject, "ok", f"{address}: all nodes of the scheduler are this host, which reaches it")


def of_a_home(site: Site) -> Look:
    """What a node is to look at on which a daemon could run."""
    return Look([], is_home=True, commands=_commands(site))


def _commands(site: Site) -> tuple[str, ...]:
    """What a daemon has to find in its PATH, to speak with the scheduler."""
    from hpcserve.cluster import site_pbs, site_slurm

    return {"slurm": site_slurm.COMMANDS, "pbs": site_pbs.COMMANDS}.get(site.scheduler.kind, ())


def steps_in_jobs(site: Site) -> bool:
    """Whether a process can be begun in a job of ours from without, as :mod:`hpcserve.cluster.site_step` does."""
    return site.scheduler.kind in _STEPS_IN_JOBS
