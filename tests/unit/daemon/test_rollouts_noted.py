"""What serves is written down, and written again when the disk had no room for it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetview import Policy
from hpcserve.core.rollout import Version
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.rollouts import Rollouts
from hpcserve.errors import StorageFull
from hpcserve.registry.rows import ServedRow
from hpcserve.types import DeploymentName
from tests.unit.core.untried import Never

D = DeploymentName("d")


class FullAtFirst:
    """A store whose disk is full for the first two writes."""

    def __init__(self) -> None:
        self.tries = 0
        self.written: list[ServedRow] = []

    async def do(self, call: Any, row: ServedRow) -> None:
        self.tries += 1
        if self.tries <= 2:
            raise StorageFull("no space left on device")
        self.written.append(row)


def test_a_full_disk_only_puts_it_off(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(
        policy=Policy(max_pilots=1, slots=1, idle_s=1.0),
        seed="s",
        restarts=Never,
        pilot_restarts=Never(),
        succession=Succession(walltime_s=60.0, margin_s=0.0, first_wait_s=0.0),
    )
    fleet.want(D, Version("v1"), 1)
    fleet.deployments[D].served = Version("v1")
    store = FullAtFirst()
    rollouts = Rollouts(store, fleet)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            asyncio.run(rollouts.note())
    assert [row.version for row in store.written] == ["v1"]
    assert store.tries == 3
    assert len(caplog.records) == 1
