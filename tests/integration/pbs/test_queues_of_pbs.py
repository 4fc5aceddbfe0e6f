"""What the stand-in for PBS refuses, or takes and never starts, is told of to whoever deploys, in PBS's own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcserve.errors import DeploymentFailed
from hpcserve.wire import admin
from tests.integration.daemon_tree import EXAMPLES, deployment, until
from tests.integration.pbs.conftest import NewDaemonOnPbs
from tests.integration.pbs.daemon import LONG_S, pilots
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(600)

ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("queues", "pilot", "says"),
    [
        ({}, {"partition": "nosuch"}, "Unknown queue"),
        ({}, {"directives": ["-l nosuchres=1"]}, "Unknown resource"),
        ({"workq": {"resources_max": {"nodect": 1}}}, {"nodes": 2, "launcher": "mpiexec"}, "resource limits"),
        ({"workq": {"resources_min": {"nodect": 10}}}, {}, "resource limits"),
        ({"workq": {"resources_max": {"walltime": "00:30:00"}}}, {}, "resource limits"),
    ],
)
def test_a_refusal_fails_the_deployment_and_says_why(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs, queues: dict[str, Any], pilot: dict[str, Any], says: str
) -> None:
    pbs.set(queues=queues or {"workq": {}})
    daemon = new_daemon_on_pbs(pilots=pilot).up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        with pytest.raises(DeploymentFailed, match=says) as caught:
            client.infer("echo.echo", ONE, timeout_s=60)
        assert "pilots." in caught.value.message
    assert not pbs.jobs()


def test_what_is_idle_is_spared_and_whoever_asks_has_a_pilot_tried(
    pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs
) -> None:
    daemon = new_daemon_on_pbs(pilots={"partition": "workq"}).up()
    pbs.set(queues={"other": {}})
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo", replicas=0)
        for name in ("early", "late"):
            wanted = admin.Deploy(servable="echo", endpoint=name, replicas=0, max_replicas=1)
            client.call("deploy", wanted, admin.Deployed)
        daemon.deploy(client, EXAMPLES / "echo")
        until(lambda: deployment(client, "echo").state == "failed", "pilots are given up", LONG_S)
        assert [deployment(client, name).state for name in ("early", "late")] == ["idle", "idle"]
        asked = len(pbs.asked("qsub"))
        with pytest.raises(DeploymentFailed, match=r"pilots.partition.*one is tried for whoever asks"):
            client.infer("early.echo", ONE, timeout_s=60)
        assert len(pbs.asked("qsub")) == asked + 1
        pbs.set(queues={"workq": {}})
        assert client.infer("late.echo", ONE, timeout_s=60)["x"] == 1


def test_an_impossible_request_waits_and_says_so(new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    daemon = new_daemon_on_pbs(pilots={"cpus_per_node": 400}).up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        until(lambda: "Can Never Run" in deployment(client, "echo").error, lambda: str(pilots(client)), LONG_S)
        assert "pilots.cpus_per_node" in deployment(client, "echo").error
        assert daemon.are(client, "queued")


def test_a_held_pilot_waits_and_says_so(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    pbs.set(started=False)
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        (name,) = until(lambda: list(pbs.jobs()), "it is submitted", LONG_S)
        pbs.hold(name)
        until(lambda: f"qrls {name}" in deployment(client, "echo").error, lambda: str(pilots(client)), LONG_S)
        pbs.set(started=True)
        pbs.release(name)
        daemon.wait_ready(client, "echo")
        until(lambda: not deployment(client, "echo").error, "nothing is wrong any more", LONG_S)


def test_an_estimated_start_is_told_of(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    pbs.set(started=False)
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        (name,) = until(lambda: list(pbs.jobs()), "it is submitted", LONG_S)
        pbs.estimate(name, 7200.0)
        until(lambda: [each for each in pilots(client) if each.starts_in_s], lambda: str(pilots(client)), LONG_S)
        assert 7000.0 < (pilots(client)[0].starts_in_s or 0.0) <= 7200.0
