"""Servables that fail in every way: their callers are told, nobody else is harmed, the daemon goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeploymentFailed, InvalidOutput, ManifestError, PoisonRequest, ServableError
from hpcserve.wire import admin
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, deployment, until

OVERRIDES = {"pilots": {"setup_timeout_s": 2.0, "log_bytes": 1 << 20}}


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, EXAMPLES / "echo")
        yield made


@pytest.fixture(autouse=True)
def _others_are_served(client: Client) -> Iterator[None]:
    yield
    assert client.infer("echo.echo", np.ones(1, np.float32), timeout_s=10)["x"] == 1


def failure(client: Client, endpoint: str) -> DeploymentFailed:
    """How the deployment's callers learn that it cannot start; those that waited and those that come later."""
    waiting = client.submit(endpoint, np.int64(1))
    with pytest.raises(DeploymentFailed) as waited:
        waiting.result(40)
    with pytest.raises(DeploymentFailed) as late:
        client.infer(endpoint, np.int64(1), timeout_s=5)
    assert late.value.message == waited.value.message
    assert deployment(client, endpoint).state == "failed"
    return waited.value


# --- they do not start ------------------------------------------------------------------------------------


def test_a_module_that_cannot_be_imported_is_not_published(client: Client, tmp_path: Path) -> None:
    (tmp_path / "servable.toml").write_text('name = "x"\nloader = "python"\nentry = "x:f"\n')
    (tmp_path / "x.py").write_text("import a_package_that_nobody_has\n")
    with pytest.raises(ManifestError, match="a_package_that_nobody_has"):
        client.call("publish", admin.Publish(path=str(tmp_path)), admin.Published)


def test_a_module_that_ends_its_interpreter_is_not_published(client: Client, tmp_path: Path) -> None:
    (tmp_path / "servable.toml").write_text('name = "x"\nloader = "python"\nentry = "x:f"\n')
    (tmp_path / "x.py").write_text("import os\nos._exit(0)\n")
    with pytest.raises(ManifestError, match="x"):
        client.call("publish", admin.Publish(path=str(tmp_path)), admin.Published)


def test_an_import_that_fails_in_the_replica_fails_the_deployment(client: Client, daemon: Daemon) -> None:
    error = failure(client, daemon.deploy(client, SERVABLES / "torn"))
    assert "a_package_that_nobody_has" in error.message
    assert "torn.py" in (error.remote_traceback or "")


def test_a_setup_that_raises_fails_the_deployment(client: Client, daemon: Daemon) -> None:
    error = failure(client, daemon.deploy(client, SERVABLES / "stubborn"))
    assert "no weights" in error.message
    assert "stubborn.py" in (error.remote_traceback or "")


def test_a_setup_that_hangs_is_killed_and_said(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "asleep")
    until(lambda: deployment(client, endpoint).restarts, "the setup was given up")
    assert "setup and warm-up did not finish within 2 s" in deployment(client, endpoint).error
    client.call("undeploy", admin.Undeploy(endpoint=endpoint), admin.Undeployed)
    until(lambda: not any("asleep" in each for each in daemon.commands()), "its processes are gone")


def test_a_failed_deployment_is_tried_again_when_it_is_deployed_again(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "stubborn", endpoint="second")
    failure(client, endpoint)
    daemon.deploy(client, EXAMPLES / "echo", endpoint=endpoint)
    assert client.infer(f"{endpoint}.echo", np.ones(1, np.float32), timeout_s=30)["x"] == 1


# --- they end their process -------------------------------------------------------------------------------


def test_a_request_that_kills_its_replica_is_convicted_alone(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "killer", replicas=2)
    daemon.replica_pids(client, endpoint, at_least=2)
    futures = [client.submit(endpoint, np.int64(-1 if n == 40 else n), timeout_s=60) for n in range(100)]
    answers = [each.exception(60) or int(each.result()["n"]) for each in futures]
    poison = answers.pop(40)
    assert isinstance(poison, PoisonRequest)
    replica = poison.message.rpartition("hpcserve logs ")[2]
    assert poison.message.endswith(f"{replica} ran nothing else (exit code 7); see: hpcserve logs {replica}")
    (log,) = client.call("logs", admin.AskLogs(name=replica), admin.Logs).logs
    assert log.text.endswith("[this replica has ended: exit code 7]\n")
    assert answers == [n for n in range(100) if n != 40]


def test_two_such_requests_are_both_found(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "killer", replicas=2, endpoint="two")
    daemon.replica_pids(client, endpoint, at_least=2)
    bad = {10, 11}
    futures = [client.submit(endpoint, np.int64(-1 if n in bad else n), timeout_s=60) for n in range(60)]
    found = {n: each.exception(60) for n, each in enumerate(futures)}
    assert {n for n, error in found.items() if error is not None} == bad
    assert {type(found[n]) for n in bad} == {PoisonRequest}


def test_a_deployment_outlives_any_number_of_such_requests(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "killer", endpoint="many")
    assert client.infer(endpoint, np.int64(0), timeout_s=60)["n"] == 0
    for _ in range(4):
        with pytest.raises(PoisonRequest):
            client.infer(endpoint, np.int64(-1), timeout_s=60)
    assert client.infer(endpoint, np.int64(1), timeout_s=60)["n"] == 1
    assert deployment(client, endpoint).restarts >= 8


# --- they return what they must not -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["shape", "dtype", "name", "count", "nothing"])
def test_a_wrong_output_is_said_and_the_replica_goes_on(client: Client, daemon: Daemon, method: str) -> None:
    daemon.deploy(client, SERVABLES / "liar")
    with pytest.raises(InvalidOutput) as caught:
        client.infer(f"liar.{method}", np.int64(1))
    assert method in caught.value.message
    assert np.array_equal(client.infer("liar.honest", np.int64(5))["y"], [5, 5])


def test_an_exception_travels_with_its_traceback(client: Client, daemon: Daemon) -> None:
    daemon.deploy(client, SERVABLES / "liar")
    with pytest.raises(ServableError, match="no row 17") as caught:
        client.infer("liar.raises", np.int64(17))
    assert type(caught.value) is ServableError
    assert "LookupError" in (caught.value.remote_traceback or "")
    assert "liar.py" in str(caught.value)


# --- they print -------------------------------------------------------------------------------------------


def test_a_gigabyte_of_print_is_capped_and_harms_nobody(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "chatter")
    shouting = client.submit(endpoint, np.int64(1024), timeout_s=100)
    for number in itertools.count():
        assert client.infer("echo.echo", np.full(1, number, np.float32), timeout_s=10)["x"] == number
        if shouting.done():
            break
    assert shouting.result()["mib"] == 1024
    assert client.infer(endpoint, np.int64(0), timeout_s=10)["mib"] == 0
    logs = list((daemon.shared / "logs").glob("chatter-*"))
    assert 0 < sum(each.stat().st_size for each in logs) <= 1 << 20
    told = client.call("logs", admin.AskLogs(name=endpoint, lines=3), admin.Logs)
    assert any("xxx" in each.text for each in told.logs)
