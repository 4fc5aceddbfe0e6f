"""The end of a job that a daemon runs in: the next one is submitted, however often that takes, unless it goes down."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpcserve.daemon import placement
from hpcserve.daemon.controller import __main__ as process
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.fence import Fence
from hpcserve.errors import SchedulerError

EPOCH, EVERY_S = 3, 0.01


class Placed:
    """A daemon in a job, and a scheduler that does not answer so often."""

    def __init__(self, silent: int = 0, *, goes_down: bool = False) -> None:
        self.silent = silent
        self.submitted: list[str] = []
        self.controller = SimpleNamespace(site=None, parting=SimpleNamespace(goes_down=goes_down), stop=asyncio.Event())

    async def submit(self, site: Any, placed: str) -> str:
        if self.silent:
            self.silent -= 1
            raise SchedulerError("slurmctld does not answer")
        self.submitted.append(placed)
        return "8"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SUCCEED_AGAIN_S", 0.0)


async def succeeded(made: Placed, placed: str, fence: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "submit", made.submit)
    warning = asyncio.Event()
    warning.set()
    await asyncio.wait_for(process._succeed(cast("Controller", made.controller), fence, placed, warning), 60)


def warned(made: Placed, placed: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(succeeded(made, placed, Fence(shared, EPOCH, EVERY_S), monkeypatch))


@pytest.mark.parametrize("silent", [0, 3])
def test_it_ends_once_the_next_job_is_submitted(silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Placed(silent)
    warned(made, "7", tmp_path, monkeypatch)
    assert made.submitted == ["7"]
    assert made.controller.stop.is_set()


def test_one_that_was_told_to_go_down_has_no_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Placed(goes_down=True)
    warned(made, "7", tmp_path, monkeypatch)
    assert made.submitted == []
    assert not made.controller.stop.is_set()


def test_one_that_runs_in_no_job_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Placed()
    warned(made, "", tmp_path, monkeypatch)
    assert made.submitted == []
    assert not made.controller.stop.is_set()


def test_one_that_has_lost_its_lease_submits_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, fence = Placed(), Fence(tmp_path, EPOCH, EVERY_S)
    (tmp_path / f"lease-{EPOCH + 1:08d}.json").touch()

    async def scene() -> None:
        succeeding = asyncio.create_task(succeeded(made, "7", fence, monkeypatch))
        while not fence.trouble.endswith("another daemon has taken it"):  # it has looked
            await asyncio.sleep(EVERY_S)
        for _ in range(5):  # looks at the lease, each of which could have let it pass
            await fence.lost()
        assert not succeeding.done()
        succeeding.cancel()
        await asyncio.gather(succeeding, return_exceptions=True)

    asyncio.run(scene())
    assert made.submitted == []


def test_while_the_lease_cannot_be_looked_at_the_next_job_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, shared = Placed(), tmp_path / "shared"
    shared.touch()
    fence = Fence(shared, EPOCH, EVERY_S)

    async def scene() -> None:
        succeeding = asyncio.create_task(succeeded(made, "7", fence, monkeypatch))
        while not fence.trouble:
            await asyncio.sleep(EVERY_S)
        assert made.submitted == []
        shared.unlink()
        shared.mkdir()
        await succeeding

    asyncio.run(scene())
    assert made.submitted == ["7"]
