"""What is taken back: before it runs, at its replica, in a batch, while it runs, and after; and by clients that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import InvalidInput
from hpcserve.wire import admin
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, is_alive, let_replicas_be_told, until

KILL_S = 0.5
GONE = """
import sys, time
import numpy as np
from hpcserve import Client
client = Client(timeout_s=None)
calls = [client.submit(sys.argv[1], np.full(1, 50, sys.argv[2]), parameters=PARAMETERS) for _ in range(40)]
print("submitted", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client(timeout_s=60.0) as made:
        for servable in ("tally", "batches", "deaf"):
            daemon.deploy(made, SERVABLES / servable)
        yield made


def deploy_deaf(client: Client, endpoint: str, *, replicas: int = 1, kill_cancelled_s: float | None = KILL_S) -> None:
    wanted = admin.Deploy(
        servable="deaf", endpoint=endpoint, replicas=replicas, kill_cancelled_s=kill_cancelled_s, max_batch_size=8
    )
    client.call("deploy", wanted, admin.Deployed)
    until(lambda: deployment(client, endpoint).state == "ready", f"{endpoint} is ready")


def waits(client: Client, endpoint: str) -> int:
    """How many requests are at the replicas of a deployment."""
    return sum(each.waiting for each in deployment(client, endpoint).replicas)


def begun(log: Path) -> list[list[str]]:
    """What has begun: for each call its inputs and its process."""
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def sleep(client: Client, method: str, seconds: float, log: Path, gate: Path | None = None) -> Any:
    """A call that takes so long, once the gate exists."""
    parameters = {"log": str(log)} | ({"gate": str(gate)} if gate is not None else {})
    return client.submit(method, np.full(1, seconds), parameters=parameters)


# --- before, during and after ----------------------------------------------------------------------------------


def test_what_is_queued_is_removed(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    client.call("deploy", admin.Deploy(servable="deaf", endpoint="paused", replicas=0), admin.Deployed)
    futures = [sleep(client, "paused.alone", 0.0, log) for _ in range(20)]
    until(lambda: deployment(client, "paused").queued == 20, "they are queued")
    assert all(each.cancel() for each in futures[:19])
    assert all(each.cancel() for each in futures[:19]), "the second time changes nothing"
    until(lambda: deployment(client, "paused").queued == 1, "those that were taken back are gone")
    deploy_deaf(client, "paused", kill_cancelled_s=None)
    assert futures[19].result(30)["together"] == 1
    assert len(begun(log)) == 1


def test_what_lies_at_a_replica_is_left_out(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    gate = tmp_path / "gate"
    runs = sleep(client, "deaf.alone", 1.0, log, gate)
    until(lambda: begun(log), "the first runs")
    others = [sleep(client, "deaf.alone", 0.25, log), sleep(client, "deaf.joined", 0.5, log)]
    mates = [sleep(client, "deaf.joined", 0.0, log) for _ in range(2)]
    until(lambda: waits(client, "deaf") + deployment(client, "deaf").queued == 5, "all others wait")
    assert all(each.cancel() for each in others)
    assert waits(client, "deaf"), "the broker has read it"
    let_replicas_be_told()
    gate.touch()
    assert runs.result(30)["together"] == 1
    for each in mates:
        each.result(30)
    assert [sample for call in begun(log) for sample in call[:-1]] == ["1.0", "0.0", "0.0"]


def test_what_runs_is_told(client: Client) -> None:
    future = client.submit("batches.until_cancelled", np.ones(1, np.int64))
    until(lambda: waits(client, "batches"), "it runs")
    assert future.cancel()
    assert future.cancel()
    until(lambda: not waits(client, "batches"), "it has stopped", within_s=10)


def test_what_is_over_cannot_be_taken_back(client: Client) -> None:
    future = client.submit("batches.plain", np.ones(1, np.int64))
    assert future.result(30)["y"] == 2
    assert not future.cancel()
    assert future.result()["y"] == 2


# --- killed, where the deployment wants that ------------------------------------------------------------------------


def test_a_replica_that_runs_in_vain_is_killed_and_nobody_is_blamed(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    deploy_deaf(client, "killed")
    assert deployment(client, "killed").kill_cancelled_s == KILL_S
    hopeless = sleep(client, "killed.alone", 600.0, log)
    until(lambda: begun(log), "it runs")
    behind = sleep(client, "killed.alone", 0.0, log)
    until(lambda: waits(client, "killed") == 2, "another one waits behind it")
    assert hopeless.cancel()
    assert behind.result(30)["together"] == 1
    (_, first), (_, second) = begun(log)
    assert not is_alive(int(first))
    assert first != second
    view = deployment(client, "killed")
    assert (view.state, view.error, view.restarts) == ("ready", "", 0)


def test_a_batch_mate_that_is_still_wanted_prevents_it(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    deploy_deaf(client, "mates")
    daemon.replica_pids(client, "mates")
    for _ in range(3):
        sleep(client, "mates.joined", 0.0, log).result(30)
    gates = [tmp_path / str(number) for number in range(2)]
    before = sleep(client, "mates.alone", 0.0, log, gates[0])
    until(lambda: len(begun(log)) == 4, "the replica is busy")
    given_up, wanted = [sleep(client, "mates.joined", 0.0, log, gates[1]) for _ in range(2)]
    until(lambda: waits(client, "mates") == 3, "both are at the replica")
    gates[0].touch()
    before.result(30)
    until(lambda: len(begun(log)) == 5, "both run")
    assert given_up.cancel()
    time.sleep(4 * KILL_S)  # the time in which nothing may happen
    gates[1].touch()
    assert wanted.result(30)["together"] == 2
    assert len({pid for *_, pid in begun(log)}) == 1
    again = [sleep(client, "mates.joined", 600.0, log) for _ in range(2)]
    until(lambda: len(begun(log)) == 6, "one or both run")
    for each in again:
        assert each.cancel()
    until(lambda: not is_alive(int(begun(log)[0][-1])), "now nobody waits")


def test_without_the_policy_it_runs_to_its_end(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pids = daemon.replica_pids(client, "deaf")
    future = sleep(client, "deaf.alone", 4 * KILL_S + 2.0, log)
    until(lambda: begun(log), "it runs")
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(10)
    until(lambda: not waits(client, "deaf"), "it has ended")
    assert daemon.replica_pids(client, "deaf") == pids


def test_a_time_that_cannot_be_meant_is_refused(client: Client) -> None:
    for time_s in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InvalidInput, match="kill_cancelled_s"):
            deploy_deaf(client, "never", kill_cancelled_s=time_s)


# --- clients that die ------------------------------------------------------------------------------------------------


def kill_a_client(daemon: Daemon, client: Client, method: str, dtype: str, parameters: dict[str, Any]) -> None:
    """A client dies without a word, with 40 requests out, some of them at the replica and some queued."""
    endpoint = method.partition(".")[0]
    with subprocess.Popen(
        [sys.executable, "-c", GONE.replace("PARAMETERS", repr(parameters)), method, dtype],
        env=os.environ | daemon.variables,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"submitted\n"
        until(lambda: waits(client, endpoint) + deployment(client, endpoint).queued == 40, "all are there")
        process.send_signal(signal.SIGKILL)


def test_a_client_that_is_killed_leaves_nothing_behind(client: Client, daemon: Daemon) -> None:
    pids = daemon.replica_pids(client, "batches")
    kill_a_client(daemon, client, "batches.until_cancelled", "int64", {})
    until(lambda: not waits(client, "batches") + deployment(client, "batches").queued, "all is cancelled", 20)
    assert daemon.replica_pids(client, "batches") == pids
    assert client.infer("batches.plain", np.ones(1, np.int64))["y"] == 2


def test_what_a_killed_client_has_left_running_is_killed(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    deploy_deaf(client, "orphans")
    kill_a_client(daemon, client, "orphans.alone", "float64", {"log": str(log)})
    until(lambda: not waits(client, "orphans") + deployment(client, "orphans").queued, "all is cancelled", 20)
    assert deployment(client, "orphans").restarts == 0
