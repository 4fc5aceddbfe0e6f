"""The pilots that a daemon has left behind when it went down, as ``hpcserve down`` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from hpcserve.client.services import Service
    from hpcserve.cluster.seam import JobId
    from hpcserve.config import Site
    from hpcserve.daemon.leftovers import LeftBehind
    from hpcserve.types import PilotId


def tell_left_behind(service: Service) -> None:
    """Shows those of a daemon that has just gone down.

    Raises:
        SchedulerError: Pilots may go on, since nobody knows that they have ended.
    """
    from hpcserve.daemon import leftovers

    _tell(leftovers.read(service.record.parent) if service.record is not None else ())


def tell_left_earlier(site: Site) -> None:
    """Shows those of a daemon that went down before which have not ended since, as far as the scheduler tells.

    Raises:
        SchedulerError: Pilots may go on.
    """
    import asyncio

    from hpcserve.daemon import leftovers

    left = leftovers.read(site.shared_dir)
    if not left:
        return
    still = asyncio.run(_still(site, left))
    if not still:
        leftovers.write(site.shared_dir, ())
    _tell(still)


def tell_left_by_the_dead(site: Site | None, ended: str) -> None:
    """Shows those of a daemon that was killed, as far as the scheduler tells.

    Args:
        site: Its site, where that is this user's own.
        ended: That it is gone.

    Raises:
        SchedulerError: It has left pilots that may go on.
    """
    import asyncio

    from hpcserve.daemon import leftovers
    from hpcserve.daemon.leftovers import LeftBehind

    living = None if site is None else asyncio.run(_living(site))
    if living is None:
        typer.echo(
            f"{ended}; pilots that it has left end by themselves after pilots.orphan_s; to end them now: hpcserve up, "
            "then hpcserve down"
        )
        return
    typer.echo(ended if living else f"{ended}; no pilot of it is left")
    _tell([LeftBehind(pilot, job, leftovers.KILLED) for job, pilot in living.items()])


async def _still(site: Site, left: Sequence[LeftBehind]) -> Sequence[LeftBehind]:
    """The pilots whose jobs have not ended; if the scheduler does not tell, those that were left."""
    from hpcserve.daemon.leftovers import LeftBehind

    living = await _living(site)
    if living is None:
        return left
    causes = {each.pilot: each.cause for each in left}
    return [LeftBehind(pilot, job, causes.get(pilot) or left[0].cause) for job, pilot in living.items()]


async def _living(site: Site) -> Mapping[JobId, PilotId] | None:
    """The pilots whose jobs have not ended; None: the scheduler does not tell."""
    from hpcserve.cluster.plugins import open_scheduler
    from hpcserve.daemon.controller.job import service_tag
    from hpcserve.errors import HpcserveError

    try:
        scheduler = open_scheduler(site)
        try:
            pilots = await scheduler.find(service_tag(site.shared_dir))
            states = await scheduler.poll(list(pilots))
        finally:
            await scheduler.close()
    except HpcserveError:
        return None
    return {job: pilot for job, pilot in pilots.items() if states[job].phase != "ended"}


def _tell(left: Sequence[LeftBehind]) -> None:
    from hpcserve.errors import SchedulerError

    if not left:
        return
    for each in left:
        typer.echo(f"{each.pilot}, job {each.job or 'of unknown number'}, may go on: {each.cause}", err=True)
    jobs = " ".join(each.job for each in left if each.job)
    raise SchedulerError(
        f"the end of {len(left)} pilot(s) is not confirmed; they end by themselves after pilots.orphan_s once they "
        "run; to end them, once the batch scheduler can: hpcserve up, then hpcserve down"
        + (f"; or cancel the jobs yourself: {jobs}" if jobs else "")
    )
