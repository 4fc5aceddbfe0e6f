"""What the broker counts, for those who decide: how long requests take, and how many come and wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from hpcserve.core.fleet import Fleet
from hpcserve.core.scaling import Demand, Scale
from hpcserve.daemon.controller.hub import HubLine
from hpcserve.errors import ServiceUnavailable
from hpcserve.registry.rows import DeploymentRow
from hpcserve.types import DeploymentName
from hpcserve.wire import hub

MEASURE_S = 5.0
"""How often the broker is asked."""
IDLE_S = 300.0
"""A deployment that is not asked keeps its replicas for so long, where it does not say."""


class Measuring:
    """Asks the broker as long as somebody needs to know.

    Args:
        line: To the broker.
        fleet: Is told.
        changed: Called when another number of replicas follows.
        is_blind: Whether agents have still to say which replicas there are.
    """

    def __init__(
        self, line: HubLine, fleet: Fleet, changed: Callable[[], None], *, is_blind: Callable[[], bool]
    ) -> None:
        self._line = line
        self._fleet = fleet
        self._changed = changed
        self._is_blind = is_blind
        self._soon = asyncio.Event()

    def soon(self) -> None:
        """Something waits that nothing can answer: the broker is asked at once."""
        self._soon.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            try:
                # Not wait_for(): before Python 3.12 it swallows a cancellation that comes together with a call.
                async with asyncio.timeout(MEASURE_S):
                    await self._soon.wait()
            except TimeoutError:
                pass  # it is time all the same
            self._soon.clear()
            if self._is_needed():
                await self._measure()

    def _is_needed(self) -> bool:
        fleet = self._fleet
        ending = any(pilot.ends_s is not None for pilot in fleet.pilots.values())
        return ending or any(each.scaler is not None for each in fleet.deployments.values())

    async def _measure(self) -> None:
        try:
            stats = await self._line.stats()
        except ServiceUnavailable:
            return
        self._fleet.longest_s = {load.deployment: load.longest_s or 0.0 for load in stats.deployments}
        if stats.recovering or self._is_blind():
            return
        if self._fleet.demand(demands(stats, self._fleet), time.monotonic()):
            self._changed()


def demands(stats: hub.Stats, fleet: Fleet) -> dict[DeploymentName, Demand]:
    """What was counted for each deployment."""
    found = {}
    homes = {each.replica: each.deployment for each in fleet.replicas.values()}
    for load in stats.deployments:
        mine = [each for each in stats.replicas if homes.get(each.replica) == load.deployment]
        found[load.deployment] = Demand(
            came=load.came,
            queued=load.queued,
            running=sum(each.waiting for each in mine),
            workers=sum(each.connected for each in mine),
            service_s=load.service_s,
        )
    return found


def scale_of(row: DeploymentRow) -> Scale | None:
    """How a deployment is scaled; None where it has a fixed number of replicas."""
    if row.max_replicas is None:
        return None
    return Scale(
        least=row.replicas,
        most=row.max_replicas,
        hot=row.hot_replicas or 0,
        idle_s=IDLE_S if row.idle_s is None else row.idle_s,
    )
