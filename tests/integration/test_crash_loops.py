"""Replicas that start well and end with each request: after five of them the deployment stops, and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeploymentFailed, PoisonRequest
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, until


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client(timeout_s=60.0) as made:
        yield made


@pytest.mark.parametrize(
    ("method", "cause", "last_words"),
    [("exits", "exit code 7", "last words of"), ("faults", "killed by signal 11 (SIGSEGV)", "")],
)
def test_a_method_that_ends_its_process_each_time_stops_its_deployment(
    client: Client, daemon: Daemon, method: str, cause: str, last_words: str
) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "doomed", endpoint=method)
    futures = [client.submit(f"{endpoint}.{method}", np.int64(n)) for n in range(8)]
    errors = [each.exception(60) for each in futures]
    assert {type(error) for error in errors} <= {PoisonRequest, DeploymentFailed}
    stopped = next(error for error in errors if isinstance(error, DeploymentFailed))
    assert stopped.message.startswith(
        f"deployment '{method}' has stopped: 5 replicas in a row ended without a request answered, the last one so: "
        f"{cause}; "
    )
    assert last_words in (stopped.remote_traceback or "")
    with pytest.raises(DeploymentFailed) as late:
        client.infer(f"{endpoint}.{method}", np.int64(1))
    assert late.value.message == stopped.message
    view = deployment(client, endpoint)
    assert (view.state, view.replicas) == ("failed", ())
    assert view.restarts >= 5, "while the broker is too busy to say what was answered, an end does not count"
    assert cause in view.error
    assert last_words in view.traceback


def test_status_shows_the_last_words_and_deploying_again_starts_anew(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "doomed", endpoint="again")
    for number in range(3):
        client.submit(f"{endpoint}.exits", np.int64(number)).exception(60)
    until(lambda: deployment(client, endpoint).state == "failed", "it has stopped")
    shown = subprocess.run(
        [sys.executable, "-m", "hpcserve.cli.main", "status"],
        env=os.environ | daemon.variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    assert "again: 5 replicas in a row ended" in shown
    assert "\n  last words of 2\n" in shown
    daemon.deploy(client, SERVABLES / "doomed", endpoint=endpoint)
    assert client.infer(f"{endpoint}.works", np.int64(3))["n"] == 3
    assert deployment(client, endpoint).error == ""


def test_requests_that_are_answered_in_between_keep_a_deployment_going(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "doomed", endpoint="lives")
    for number in range(4):
        assert client.infer(f"{endpoint}.works", np.int64(number))["n"] == number
        with pytest.raises(PoisonRequest):
            client.infer(f"{endpoint}.exits", np.int64(number))
    assert client.infer(f"{endpoint}.works", np.int64(9))["n"] == 9
    view = deployment(client, endpoint)
    assert (view.state, view.restarts) == ("ready", 8)


def crash_until_it_stops(client: Client, endpoint: str) -> str:
    """Why a deployment has stopped that got nothing but requests that end its replicas."""
    futures = [client.submit(f"{endpoint}.exits", np.int64(n)) for n in range(30)]
    return next(error.message for each in futures if isinstance(error := each.exception(60), DeploymentFailed))


def test_what_the_version_before_has_answered_does_not_count(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "doomed", endpoint="renewed")
    for number in range(3):
        client.infer(f"{endpoint}.works", np.int64(number))
    client.submit(f"{endpoint}.exits", np.int64(0)).exception(60)
    second = shutil.copytree(SERVABLES / "doomed", tmp_path / "doomed")
    with (second / "doomed.py").open("a") as code:
        code.write("# The second version.\n")
    first = deployment(client, endpoint).version
    daemon.deploy(client, second, endpoint=endpoint)

    def only_the_second() -> bool:
        replicas = deployment(client, endpoint).replicas
        return [(each.version != first, each.state) for each in replicas] == [(True, "ready")]

    until(only_the_second, "only the second is there")
    assert " 5 replicas in a row ended" in crash_until_it_stops(client, endpoint)


def test_what_was_answered_before_the_controller_began_does_not_count(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "doomed", endpoint="restarted")
    for number in range(3):
        client.infer(f"{endpoint}.works", np.int64(number))
    daemon.kill("controller")
    until(lambda: deployment(client, endpoint).state == "ready", "a new controller knows that it is ready")
    assert " 5 replicas in a row ended" in crash_until_it_stops(client, endpoint)
