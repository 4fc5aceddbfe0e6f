"""Pilot jobs that end: those that had begun well are replaced, those that never begin are named as the cause."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from hpcserve.errors import DeploymentFailed
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, deployment, status, until

ONE = np.ones(1, np.float32)


def test_agents_that_die_in_a_row_fail_no_deployment(new_daemon: NewDaemon) -> None:
    daemon = new_daemon().up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        gone: set[int] = set()

        def newcomers() -> set[int]:
            said = status(client)
            proven = {each.pilot for each in said.deployments[0].replicas if each.state == "ready"}
            return {each.pid for each in said.pilots if each.pid is not None and each.pilot in proven} - gone

        for _ in range(4):
            agents = until(newcomers, "a replica is ready")
            for agent in agents:
                os.kill(agent, signal.SIGKILL)
            gone |= agents
        assert client.infer("echo.echo", ONE, timeout_s=60)["x"] == 1
        # A replica may have answered before it noticed that the last of these agents had died.
        until(lambda: deployment(client, "echo").state == "ready", "the deployment is ready again", 60.0)


def test_pilots_that_never_begin_are_said_to_be_the_cause(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(pilots={"launcher": "no-such-launcher"}).up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        with pytest.raises(DeploymentFailed) as caught:
            client.infer("echo.echo", ONE, timeout_s=60)
        message = caught.value.message
        assert "pilot jobs end before their agents report" in message
        assert "exit code 1" in message
        assert "correct the servable" not in message
        assert "no-such-launcher" in (caught.value.remote_traceback or "")
        name = message.partition("hpcserve logs ")[2].partition(";")[0]
        (log,) = client.call("logs", admin.AskLogs(name=name), admin.Logs).logs
        assert "no-such-launcher" in log.text
