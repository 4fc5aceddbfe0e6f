"""A controller that is told what is to become of its pilots: drained, and that taken back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from hpcserve.config import load_site
from hpcserve.core.fleetview import SubmitPilot
from hpcserve.core.rollout import Version
from hpcserve.daemon import farewell
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.fence import Fence
from hpcserve.daemon.farewell import Farewell
from hpcserve.errors import HpcserveError
from hpcserve.types import DeploymentName


class Idle(Controller):
    """A controller with books of its own, that never runs."""

    def __init__(self, place: Path, *, unbidden: Farewell) -> None:
        site = msgspec.structs.replace(load_site("local"), state_dir=place, shared_dir=place)
        fence = Fence(place, 1, 5.0)
        super().__init__(site, runtime_dir=place, record=place / "record", fence=fence, unbidden=unbidden)
        self.fleet.want(DeploymentName("d"), Version("v"), 1)

    @property
    def begins(self) -> bool:
        """Whether it submits what is wanted."""
        return any(isinstance(each, SubmitPilot) for each in self.fleet.step(0.0))

    async def take_up(self) -> None:
        """Opens what an earlier controller of the same daemon left."""
        await self.open()
        await self.storage.close()


@pytest.fixture(params=["cancel", "keep"])
def unbidden(request: pytest.FixtureRequest) -> Farewell:
    found: Farewell = request.param
    return found


def test_a_drain_begins_nothing_more(tmp_path: Path, unbidden: Farewell) -> None:
    async def scene() -> None:
        controller = Idle(tmp_path, unbidden=unbidden)
        controller.parting.bid("drain")
        assert controller.parting.goes_down
        assert controller.parting.how == "drain"
        assert not controller.begins
        controller.hub.close()

    asyncio.run(scene())


def test_a_drain_that_is_taken_back_begins_nothing_before_the_end(tmp_path: Path, unbidden: Farewell) -> None:
    async def scene() -> None:
        controller = Idle(tmp_path, unbidden=unbidden)
        controller.parting.bid("drain")
        controller.parting.bid(unbidden)
        assert not controller.parting.goes_down
        assert controller.parting.how == unbidden
        assert not controller.begins, "it ends at once"
        controller.hub.close()

    asyncio.run(scene())


def test_the_next_controller_goes_on_draining(tmp_path: Path, unbidden: Farewell) -> None:
    async def scene() -> None:
        before, after = Idle(tmp_path, unbidden=unbidden), Idle(tmp_path, unbidden=unbidden)
        before.parting.bid("drain")
        await after.take_up()
        assert after.parting.goes_down
        assert after.fleet.is_draining
        assert not after.begins
        for controller in (before, after):
            controller.hub.close()

    asyncio.run(scene())


def test_after_a_drain_was_taken_back_the_next_controller_begins_again(tmp_path: Path, unbidden: Farewell) -> None:
    async def scene() -> None:
        before, after = Idle(tmp_path, unbidden=unbidden), Idle(tmp_path, unbidden=unbidden)
        before.parting.bid("drain")
        before.parting.bid(unbidden)
        assert farewell.read(tmp_path) is None
        await after.take_up()
        assert not after.parting.goes_down
        assert after.begins
        for controller in (before, after):
            controller.hub.close()

    asyncio.run(scene())


def test_what_cannot_be_written_down_happens_not_at_all(tmp_path: Path) -> None:
    async def scene() -> None:
        controller = Idle(tmp_path, unbidden="cancel")
        (tmp_path / farewell.FILE).mkdir()  # it cannot be replaced by a file
        with pytest.raises(HpcserveError, match=farewell.FILE):
            controller.parting.bid("drain")
        assert not controller.parting.goes_down
        assert controller.begins
        controller.hub.close()

    asyncio.run(scene())
