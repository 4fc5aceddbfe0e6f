"""What the broker counts reaches the fleet once it is known which replicas there are, and not before."""

from __future__ import annotations

import asyncio
from typing import cast

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetview import Policy
from hpcserve.core.rollout import Version
from hpcserve.core.scaling import Scale
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.hub import HubLine
from hpcserve.daemon.controller.measuring import Measuring
from hpcserve.errors import ServiceUnavailable
from hpcserve.types import DeploymentName, Epoch
from hpcserve.wire import hub
from tests.unit.core.test_fleet import ThreeAreTooMany

D = DeploymentName("d")
ASKED = hub.DeploymentLoad(D, 7, came=7)


class Line:
    """A broker that says what a test sets; None: it does not answer."""

    def __init__(self, stats: hub.Stats | None) -> None:
        self.given = stats
        self.asked = asyncio.Event()

    async def stats(self) -> hub.Stats:
        self.asked.set()
        if self.given is None:
            raise ServiceUnavailable("the broker does not answer")
        return self.given


def stats(*, recovering: bool = False) -> hub.Stats:
    return hub.Stats(0, Epoch(1), 0.0, 0, 0, 0, 0, 0, 0, 0, recovering, (), (ASKED,))


def wanted_after(given: hub.Stats | None, *, is_blind: bool = False) -> tuple[int, int]:
    """The replicas that are wanted after one look, and how often a change was told."""

    async def scene() -> tuple[int, int]:
        fleet = Fleet(
            policy=Policy(max_pilots=1, slots=4, idle_s=60.0),
            seed="s",
            restarts=ThreeAreTooMany,
            pilot_restarts=ThreeAreTooMany(),
            succession=Succession(walltime_s=1e9, margin_s=0.0, first_wait_s=0.0),
        )
        fleet.want(D, Version("v"), 0, Scale(least=0, most=4, hot=0, idle_s=60.0))
        told: list[None] = []
        line = Line(given)
        measuring = Measuring(cast("HubLine", line), fleet, lambda: told.append(None), is_blind=lambda: is_blind)
        measuring.soon()
        running = asyncio.create_task(measuring.run())
        await asyncio.wait_for(line.asked.wait(), 30)
        await asyncio.sleep(0)  # what follows from the answer follows at once
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return fleet.deployments[D].replicas, len(told)

    return asyncio.run(scene())


def test_what_waits_is_told_at_once() -> None:
    assert wanted_after(stats()) == (1, 1)


def test_counts_mean_nothing_before_agents_and_replicas_have_said_what_there_is() -> None:
    assert wanted_after(stats(), is_blind=True) == (0, 0)
    assert wanted_after(stats(recovering=True)) == (0, 0)


def test_a_broker_that_is_away_is_asked_later() -> None:
    assert wanted_after(None) == (0, 0)
