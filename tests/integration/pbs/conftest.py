"""A stand-in for a PBS server for a test, and the promise that nothing of it outlives the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import Daemon
from tests.integration.pbs.server import PbsServer

NewServer = Callable[..., PbsServer]

SITE: dict[str, dict[str, Any]] = {
    "network": {"host": "127.0.0.1"},
    "scheduler": {"kind": "pbs", "timeout_s": 10.0},
    "pilots": {"walltime_s": 3600.0, "slots": 1, "max_pilots": 4, "idle_s": 300.0, "queue_wait_s": 5.0},
}
"""What a daemon on the stand-in for PBS has beside the tests' short times."""


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
def new_daemon_on_pbs(pbs: PbsServer, new_daemon: NewDaemon, monkeypatch: pytest.MonkeyPatch) -> NewDaemon:
    """Makes daemons that find the commands of the test's server, and submit their pilots there."""
    monkeypatch.setenv("PATH", pbs.path)

    def make(**overrides: dict[str, Any]) -> Daemon:
        tables = {name: values | overrides.pop(name, {}) for name, values in SITE.items()}
        return new_daemon(**tables, **overrides)

    return make
