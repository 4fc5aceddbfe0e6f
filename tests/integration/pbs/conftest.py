"""A stand-in for a PBS server for a test, and the promise that nothing of it outlives the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.pbs.daemon import DaemonOnPbs
from tests.integration.pbs.server import PbsServer

NewServer = Callable[..., PbsServer]
NewDaemonOnPbs = Callable[..., DaemonOnPbs]


@pytest.fixture
def new_pbs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewServer]:
    """Makes servers; all of them are closed after the test."""
    made: list[PbsServer] = []

    def make(**options: Any) -> PbsServer:
        made.append(PbsServer(tmp_path_factory.mktemp("pbs"), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def pbs(new_pbs: NewServer) -> PbsServer:
    return new_pbs()


@pytest.fixture(scope="session")
def recordings(root: Path) -> Path:
    """The answers of a real OpenPBS 23.06 server."""
    return root / "tests" / "data" / "openpbs-23.06"


@pytest.fixture
def new_daemon_on_pbs(pbs: PbsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDaemonOnPbs]:
    """Makes daemons on the test's server that are not started yet; all of them are ended after the test."""
    made: list[DaemonOnPbs] = []

    def make(**overrides: dict[str, Any]) -> DaemonOnPbs:
        made.append(DaemonOnPbs(tmp_path_factory.mktemp("daemon"), pbs, **overrides))
        return made[-1]

    yield make
    for each in made:
        each.end()
