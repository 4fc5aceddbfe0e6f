"""A new controller waits to hear what its pilots run: what is deployed meanwhile, and who is heard of late."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hpcserve import Client
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, deployment, status, until

ONE = np.ones(1, np.float32)


@contextmanager
def silent(pid: int) -> Iterator[None]:
    """Inside, a process does not run."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def restarted(new_daemon: NewDaemon) -> Iterator[tuple[Client, int, int]]:
    """Inside, a controller waits for the agent of the pilot on which ``echo`` runs: the client, agent and replica."""
    daemon = new_daemon(recovery={"recovery_grace_s": 3.0}).up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        (replica,) = daemon.replica_pids(client, "echo")
        (pilot,) = status(client).pilots
        assert pilot.pid is not None
        with silent(pilot.pid):
            daemon.kill("controller")
            yield client, pilot.pid, replica


def test_whoever_has_the_answer_of_deploy_may_call_the_endpoint(new_daemon: NewDaemon) -> None:
    with restarted(new_daemon) as (client, agent, _):
        client.call("deploy", admin.Deploy(servable="echo", endpoint="other"), admin.Deployed)
        call = client.submit("other.echo", ONE, timeout_s=60)
        os.kill(agent, signal.SIGCONT)
        assert call.result()["x"] == 1


def test_a_pilot_that_is_heard_of_late_is_used_again(new_daemon: NewDaemon) -> None:
    with restarted(new_daemon) as (client, agent, replica):
        client.call("deploy", admin.Deploy(servable="echo", endpoint="echo"), admin.Deployed)  # waits until then
        assert deployment(client, "echo").replicas == (), "it was given up"
        os.kill(agent, signal.SIGCONT)
        until(lambda: replica in replicas(client), "the replica is ready again")
        assert client.infer("echo.echo", ONE, timeout_s=10)["x"] == 1


def replicas(client: Client) -> list[int | None]:
    """The processes of the replicas of ``echo`` that are ready."""
    return [each.pid for each in deployment(client, "echo").replicas if each.state == "ready"]
