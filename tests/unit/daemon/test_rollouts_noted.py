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


class Roomy:
    """A store with room."""

    def __init__(self) -> None:
        self.written: list[ServedRow] = []

    async def do(self, call: Any, row: ServedRow) -> None:
        self.written.append(row)


def a_fleet(version: str) -> Fleet:
    fleet = Fleet(
        policy=Policy(max_pilots=1, slots=1, idle_s=1.0),
        seed="s",
        restarts=Never,
        pilot_restarts=Never(),
        succession=Succession(walltime_s=60.0, margin_s=0.0, first_wait_s=0.0),
    )
    fleet.want(D, Version(version), 1)
    return fleet


def test_why_a_version_failed_stays_written_while_pilots_are_given_up() -> None:
    fleet, store = a_fleet("v2"), Roomy()
    rollouts = Rollouts(store, fleet)  # type: ignore[arg-type]
    known = fleet.deployments[D]
    known.served = Version("v1")
    known.fail("no such module", "", pilots_ended=False, crashes=True)
    asyncio.run(rollouts.note())
    known.fail("exit code 78", "", pilots_ended=True, again_s=0.0)
    asyncio.run(rollouts.note())
    known.fail("exit code 79", "", pilots_ended=True, again_s=0.0)
    asyncio.run(rollouts.note())
    assert [(row.version, row.failed, row.reason) for row in store.written] == [("v1", "v2", "no such module")]
    known.try_again()
    assert (known.target, known.crashes) == (Version("v1"), True)


def test_a_full_disk_only_puts_it_off(caplog: pytest.LogCaptureFixture) -> None:
    fleet = a_fleet("v1")
    fleet.deployments[D].served = Version("v1")
    store = FullAtFirst()
    rollouts = Rollouts(store, fleet)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            asyncio.run(rollouts.note())
    assert [row.version for row in store.written] == ["v1"]
    assert store.tries == 3
    assert len(caplog.records) == 1
