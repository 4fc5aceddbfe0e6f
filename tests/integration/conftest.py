"""A daemon for a module, and the promise that nothing of it outlives the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.daemon_tree import Daemon

NewDaemon = Callable[..., Daemon]


@pytest.fixture
def new_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewDaemon]:
    """Makes daemons that are not started yet; all of them are ended after the test."""
    made: list[Daemon] = []

    def make(**overrides: dict[str, Any]) -> Daemon:
        made.append(Daemon(tmp_path_factory.mktemp("daemon"), **overrides))
        return made[-1]

    yield make
    for each in made:
        each.end()


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
