"""The pilots that may go on when a daemon has gone down: which, and why."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpcserve.cluster.seam import JobState
from hpcserve.daemon import leftovers
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.leftovers import NOT_WRITTEN, LeftBehind
from hpcserve.types import PilotId
from tests.unit.daemon.scheduler_stage import site

P = PilotId("pilot-1")
RUNS = JobState(phase="running", cause="scancel does not answer")
BLIND = "the file system has not answered"


class Ending(Controller):
    """A controller whose pilot does not end."""

    def __init__(self, place: Path, trouble: str, state: JobState) -> None:
        self.site = site(place)
        self.site.shared_dir.mkdir()
        self.fence: Any = SimpleNamespace(trouble=trouble)
        self.fleet: Any = SimpleNamespace(end_pilots=lambda: None)
        self.pilots: Any = SimpleNamespace(jobs={P: SimpleNamespace(name="7", state=state)})
        self.scheduling: Any = SimpleNamespace(end_all=self._end_all)
        self._changed = asyncio.Event()

    async def _end_all(self, within_s: float) -> None:
        """In vain."""


@pytest.mark.parametrize(
    ("trouble", "state", "cause"),
    [
        ("", RUNS, RUNS.cause),
        (BLIND, RUNS, BLIND),
        ("", JobState(phase="running"), "the batch scheduler still called it running when the daemon went down; its "),
    ],
)
def test_they_are_told_with_what_was_in_the_way(tmp_path: Path, trouble: str, state: JobState, cause: str) -> None:
    controller = Ending(tmp_path, trouble, state)
    asyncio.run(controller._end_pilots())
    (left,) = leftovers.read(controller.site.shared_dir)
    assert (left.pilot, left.job) == (P, "7")
    assert left.cause.startswith(cause)
    leftovers.write(controller.site.shared_dir, ())
    assert leftovers.read(controller.site.shared_dir) == ()


def test_that_there_are_some_is_known_though_the_disk_was_full(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        leftovers.write(tmp_path, [LeftBehind(P, "7", BLIND)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (told,) = leftovers.read(tmp_path)
    assert told.cause == NOT_WRITTEN
