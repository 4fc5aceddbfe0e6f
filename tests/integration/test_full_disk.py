"""The disk fills up under a running daemon: durable work is refused, interactive requests go on, and it recovers."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import StorageFull
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, deployment, is_alive, status, until

LEASE_NS = 10**9
ONE = np.ones(1, np.float32)


@contextmanager
def full_disk(*pids: int) -> Iterator[None]:
    """These processes can write nothing; what else is on the disk is not touched."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
    try:
        yield
    finally:
        for pid in pids:
            if is_alive(pid):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, EXAMPLES / "echo")
        daemon.replica_pids(made, "echo")
        yield made


def is_answered(client: Client) -> bool:
    return bool(client.infer("echo.echo", ONE, timeout_s=30)["x"] == 1)


def test_what_must_be_written_down_is_refused_and_requests_go_on(client: Client, daemon: Daemon) -> None:
    controller = daemon.pid_of("controller")
    with full_disk(controller):
        with pytest.raises(StorageFull, match="room"):
            client.call("publish", admin.Publish(path=str(SERVABLES / "tally")), admin.Published)
        with pytest.raises(StorageFull, match="room"):
            client.call("deploy", admin.Deploy(servable="echo", replicas=2), admin.Deployed)
        with pytest.raises(StorageFull, match="room"):
            client.call("undeploy", admin.Undeploy(endpoint="echo"), admin.Undeployed)
        assert is_answered(client)
        assert deployment(client, "echo").wanted == 1
    assert daemon.pid_of("controller") == controller
    assert daemon.deploy(client, SERVABLES / "tally") == "tally"
    client.call("undeploy", admin.Undeploy(endpoint="tally"), admin.Undeployed)


def agent_of(client: Client) -> int:
    return until(lambda: next((each.pid for each in status(client).pilots if each.pid), 0), "an agent reports")


def test_a_lost_pilot_is_replaced_when_there_is_room_again(client: Client, daemon: Daemon) -> None:
    controller = daemon.pid_of("controller")
    agent = agent_of(client)
    with full_disk(controller):
        os.kill(agent, signal.SIGKILL)
        until(lambda: "no pilot job can be submitted" in deployment(client, "echo").error, "it is said why none comes")
        assert "room" in deployment(client, "echo").error
        assert deployment(client, "echo").state == "starting"
    assert is_answered(client)
    assert deployment(client, "echo").error == ""
    assert daemon.pid_of("controller") == controller


@contextmanager
def stopped(pid: int) -> Iterator[Callable[[], None]]:
    """This process is stopped (SIGSTOP) until what this gives is called, or the block ends."""

    def resume() -> None:
        os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    try:
        yield resume
    finally:
        resume()


def test_an_agent_enrols_when_there_is_room_again(client: Client, daemon: Daemon) -> None:
    controller, agent = daemon.pid_of("controller"), agent_of(client)
    jobs = daemon.state / "local-jobs"
    before = {*jobs.glob("*.json")}
    with stopped(daemon.pid_of("broker")) as resume:  # no agent gets through to be let in
        os.kill(agent, signal.SIGKILL)
        (job,) = until(lambda: {*jobs.glob("*.json")} - before, "a new pilot is submitted")
        log = daemon.shared / "logs" / f"{job.stem.rpartition('.')[0]}.log"
        with full_disk(controller):
            resume()
            until(lambda: "cannot be enrolled now" in log.read_text(), "the agent is refused")
            assert not any(each.pid for each in status(client).pilots)
            assert daemon.pid_of("controller") == controller
    assert is_answered(client)
    assert [each.pilot for each in status(client).pilots if each.pid] == [log.stem]


def test_the_lease_is_kept(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(recovery={"lease_s": LEASE_NS / 1e9}).up()
    (lease,) = daemon.shared.glob("lease-*.json")
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        with full_disk(daemon.pid_of("supervisor")):
            content, renewed_ns = lease.read_bytes(), lease.stat().st_mtime_ns
            until(lambda: lease.stat().st_mtime_ns > renewed_ns + 2 * LEASE_NS, "the lease is renewed, again and again")
            assert lease.read_bytes() == content, "nothing could be written"
            assert is_answered(client)
            rival = daemon.rival()
            assert rival.start()["error"]["code"] == "conflict"
            assert rival.process is not None
            assert rival.process.stdin is not None
            rival.process.stdin.close()
            assert rival.process.wait(30) == 1
        assert is_answered(client)
