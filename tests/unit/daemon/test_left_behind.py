"""The pilots that may go on when a daemon has gone down: which, and why."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpcserve.cluster.seam import JobState
from hpcserve.config import Site
from hpcserve.daemon import leftovers
from hpcserve.daemon.controller.parting import Parting
from hpcserve.daemon.leftovers import NOT_WRITTEN, LeftBehind
from hpcserve.types import PilotId
from tests.unit.daemon.scheduler_stage import site

P = PilotId("pilot-1")
RUNS = JobState(phase="running", cause="scancel does not answer")
BLIND = "the file system has not answered"


class Books:
    """Those of a pilot that does not end."""

    def end_pilots(self) -> None:
        """It is to."""

    async def end_all(self, within_s: float, *, asking_s: float) -> None:
        """In vain."""


def parting(site: Site, trouble: str, state: JobState) -> Parting:
    books, jobs = Books(), {P: SimpleNamespace(name="7", state=state)}
    others: dict[str, Any] = {
        "fleet": books,
        "pilots": SimpleNamespace(jobs=jobs),
        "scheduling": books,
        "fence": SimpleNamespace(trouble=trouble),
    }
    return Parting(site, **others, unbidden="cancel", change=lambda: None)


@pytest.mark.parametrize(
    ("trouble", "state", "cause"),
    [
        ("", RUNS, RUNS.cause),
        (BLIND, RUNS, BLIND),
        ("", JobState(phase="running"), "the batch scheduler still called it running when the daemon went down; its "),
    ],
)
def test_they_are_told_with_what_was_in_the_way(tmp_path: Path, trouble: str, state: JobState, cause: str) -> None:
    found = site(tmp_path)
    found.shared_dir.mkdir()
    asyncio.run(parting(found, trouble, state).part())
    (left,) = leftovers.read(found.shared_dir)
    assert (left.pilot, left.job) == (P, "7")
    assert left.cause.startswith(cause)
    leftovers.write(found.shared_dir, ())
    assert leftovers.read(found.shared_dir) == ()


def test_that_there_are_some_is_known_though_the_disk_was_full(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        leftovers.write(tmp_path, [LeftBehind(P, "7", BLIND)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (told,) = leftovers.read(tmp_path)
    assert told.cause == NOT_WRITTEN
