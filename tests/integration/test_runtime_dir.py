"""The directory of the daemon's sockets: its holder's alone, and gone with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcserve import config
from hpcserve.auth.private import private_directory
from hpcserve.wire import admin
from tests.integration.daemon_tree import Daemon


@pytest.fixture(params=["short", "long"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Not started. With a long path its sockets cannot be below its state directory."""
    place = tmp_path_factory.mktemp("d")
    if request.param == "long":
        place /= "deeper" * 10
        place.mkdir()
    made = Daemon(place)
    yield made
    made.end()


def sockets(daemon: Daemon) -> Path:
    return config.runtime_dir(daemon.state)


def calls_down(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.call("down", admin.Down(), admin.GoingDown)


def sends(number: signal.Signals) -> Callable[[Daemon], None]:
    def send(daemon: Daemon) -> None:
        os.kill(daemon.pid_of("supervisor"), number)

    return send


def lets_go(daemon: Daemon) -> None:
    """As a starter does that has ended."""
    assert daemon.process is not None
    assert daemon.process.stdin is not None
    daemon.process.stdin.close()


ENDS: dict[str, Callable[[Daemon], None]] = {
    "down": calls_down,
    "SIGTERM": sends(signal.SIGTERM),
    "SIGINT": sends(signal.SIGINT),
    "starter": lets_go,
}


@pytest.mark.parametrize("end", ENDS)
def test_it_goes_with_the_daemon(daemon: Daemon, end: str) -> None:
    daemon.up()
    assert (sockets(daemon) / "hub").exists()
    assert daemon.process is not None
    ENDS[end](daemon)
    assert daemon.process.wait(30) == 0
    assert not sockets(daemon).exists()


def test_what_a_killed_daemon_left_serves_the_next(daemon: Daemon) -> None:
    daemon.up().kill("supervisor")
    assert sockets(daemon).exists()
    daemon.up()
    with daemon.client() as client:
        assert client.call("status", admin.AskStatus(), admin.Status).processes
    daemon.down()
    assert not sockets(daemon).exists()


def test_a_daemon_that_is_refused_leaves_that_of_the_other(daemon: Daemon) -> None:
    daemon.up()
    rival = daemon.rival()
    assert "already runs" in rival.start()["error"]["message"]
    assert rival.process is not None
    assert rival.process.stdin is not None
    rival.process.stdin.close()
    assert rival.process.wait(30) == 1
    assert (sockets(daemon) / "hub").exists()
    daemon.kill("broker")
    with daemon.client() as client:
        assert client.call("status", admin.AskStatus(), admin.Status).processes


def test_one_that_others_may_enter_is_refused_and_not_removed(daemon: Daemon) -> None:
    private_directory(daemon.state)
    private_directory(sockets(daemon)).chmod(0o755)
    told = daemon.start()["error"]
    assert told["code"] == "config"
    assert f"chmod 700 '{sockets(daemon)}'" in told["message"]
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1  # by itself: a Ctrl-C might come while it leaves
    sockets(daemon).rmdir()
