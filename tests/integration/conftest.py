"""A daemon for a module, and the promise that nothing of it outlives the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.daemon_tree import Daemon
from tests.integration.pbs.daemon import DaemonOnPbs
from tests.integration.pbs.server import PbsServer

NewDaemon = Callable[..., Daemon]


@pytest.fixture
def new_daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDaemon]:
    """Makes daemons that are not started yet; all of them are ended after the test.

    With the parameter ``pbs`` their pilots are jobs of the stand-in for PBS.
    """
    made: list[Daemon] = []
    servers = [PbsServer(tmp_path_factory.mktemp("pbs"))] if getattr(request, "param", "") == "pbs" else []

    def make(**overrides: dict[str, Any]) -> Daemon:
        place = tmp_path_factory.mktemp("daemon")
        made.append(DaemonOnPbs(place, servers[0], **overrides) if servers else Daemon(place, **overrides))
        return made[-1]

    yield make
    for each in made:
        each.end()
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def daemon_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("daemon")


@pytest.fixture(scope="module")
def daemon(daemon_home: Path, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A running daemon for all tests of a module, with the module's ``OVERRIDES`` of the site file."""
    overrides: dict[str, dict[str, Any]] = getattr(request.module, "OVERRIDES", {})
    made = Daemon(daemon_home, **overrides)
    try:
        yield made.up()
    finally:
        made.end()
