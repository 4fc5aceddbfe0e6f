"""The shape of a pilot, chosen when its turn to be submitted comes: the scheduler is asked which one starts soon.

To it such a question is as much work as a submission, and so it counts as one: where the site allows no more of them
now, what is known by then decides. Pilots that are submitted together share its answers.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace

from hpcserve.cluster.seam import Estimator, PilotJob, Scheduler
from hpcserve.config import Site, own_queues
from hpcserve.core.fleet import Fleet
from hpcserve.core.guesses import from_now_on
from hpcserve.core.ratelimit import Bucket
from hpcserve.core.shapes import SOON_S, Bounds, Shape, best, fitted, others
from hpcserve.core.spans import span

_log = logging.getLogger(__name__)

GUESS_HOLDS_S = 60.0
"""So long an answer of the scheduler counts for other pilots of the same shape."""


class Shaping:
    """Chooses shapes, and tells the fleet of them.

    Args:
        site: What it allows.
        scheduler: Is asked, if it can say when a job would start.
        fleet: Knows how many replicas a pilot is for.
        bucket: Where each question takes a token; None: there are as many as are wanted.
    """

    def __init__(self, site: Site, scheduler: Scheduler, fleet: Fleet, bucket: Bucket | None = None) -> None:
        self._bounds = bounds_of(site)
        self._estimator = scheduler if isinstance(scheduler, Estimator) and site.pilots.min_walltime_s else None
        self._fleet = fleet
        self._bucket = bucket
        self._guesses: dict[Shape, tuple[float, float | None]] = {}  # when each was asked for, and the answer

    async def shaped(self, job: PilotJob) -> PilotJob:
        """The job in the shape that is best now."""
        known = self._fleet.pilots.get(job.pilot)
        lacking = known.lacking if known is not None else 0
        bounds = self._bounds
        if known is not None:
            least = bounds.full.nodes if known.full else max(bounds.min_nodes, known.least_nodes)
            bounds = replace(bounds, min_nodes=least)
        wanted = bounds.full if not lacking else fitted(bounds, lacking, known.needs_nodes if known is not None else 1)
        shape = await self._best(job, bounds, wanted, lacking)
        if shape != self._bounds.full:
            _log.info("pilot %s asks for %d nodes and %s", job.pilot, shape.nodes, span(shape.walltime_s))
        self._fleet.shaped(job.pilot, shape)
        return _with(job, shape)

    async def _best(self, job: PilotJob, bounds: Bounds, wanted: Shape, lacking: int) -> Shape:
        if self._estimator is None:
            return wanted
        starts_in_s = {wanted: await self._starts_in_s(job, wanted)}
        first_s = starts_in_s[wanted]
        if first_s is None or first_s <= SOON_S:
            return wanted
        for shape in others(bounds, wanted):
            starts_in_s[shape] = await self._starts_in_s(job, shape)
        return best(bounds, wanted, starts_in_s, lacking)

    async def _starts_in_s(self, job: PilotJob, shape: Shape) -> float | None:
        """A guess that lies in the past is one for this moment; one that cannot be true is none."""
        assert self._estimator is not None, "it is asked only where there is one"
        now = time.monotonic()
        asked_s, guess_s = self._guesses.get(shape, (-math.inf, None))
        if now - asked_s < GUESS_HOLDS_S:
            return guess_s
        if self._bucket is not None and self._bucket.take(now):
            return None
        guess_s = from_now_on(await self._estimator.starts_in_s(_with(job, shape)))
        self._guesses[shape] = (now, guess_s)
        return guess_s


def bounds_of(site: Site) -> Bounds:
    """What shapes a site allows its pilots."""
    pilots = site.pilots
    least = max([pilots.min_nodes or pilots.nodes, *(queue.min_nodes for queue in own_queues(site))])
    return Bounds(
        full=Shape(pilots.nodes, pilots.walltime_s),
        min_nodes=min(least, pilots.nodes),
        min_walltime_s=pilots.min_walltime_s or pilots.walltime_s,
        slots=pilots.slots,
    )


def _with(job: PilotJob, shape: Shape) -> PilotJob:
    return replace(job, nodes=shape.nodes, walltime_s=shape.walltime_s)
