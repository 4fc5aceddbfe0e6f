"""The end of a job that a daemon runs in: the next one is submitted, however often that takes, unless it goes down."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hpcserve.daemon import placement
from hpcserve.daemon.controller import __main__ as process
from hpcserve.daemon.controller.controller import Controller
from hpcserve.errors import SchedulerError


class Placed:
    """A daemon in a job, and a scheduler that does not answer so often."""

    def __init__(self, silent: int = 0, *, goes_down: bool = False) -> None:
        self.silent = silent
        self.submitted: list[str] = []
        self.controller = SimpleNamespace(site=None, goes_down=goes_down, stop=asyncio.Event())

    async def submit(self, site: Any, placed: str) -> str:
        if self.silent:
            self.silent -= 1
            raise SchedulerError("slurmctld does not answer")
        self.submitted.append(placed)
        return "8"


def warned(made: Placed, placed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "submit", made.submit)
    monkeypatch.setattr(process, "SUCCEED_AGAIN_S", 0.0)

    async def scene() -> None:
        warning = asyncio.Event()
        warning.set()
        await asyncio.wait_for(process._succeed(cast("Controller", made.controller), placed, warning), 30)

    asyncio.run(scene())


@pytest.mark.parametrize("silent", [0, 3])
def test_it_ends_once_the_next_job_is_submitted(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Placed(silent)
    warned(made, "7", monkeypatch)
    assert made.submitted == ["7"]
    assert made.controller.stop.is_set()


def test_one_that_was_told_to_go_down_has_no_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Placed(goes_down=True)
    warned(made, "7", monkeypatch)
    assert made.submitted == []
    assert not made.controller.stop.is_set()


def test_one_that_runs_in_no_job_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Placed()
    warned(made, "", monkeypatch)
    assert made.submitted == []
    assert not made.controller.stop.is_set()
