"""However a daemon ends, and whenever, nothing of it is left; and none begins where another one runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import ServiceUnavailable
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import SERVABLES, Daemon, command_of, is_alive, status, until

ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
PROCESSES = ["broker", "controller", "admission"]


@contextlib.contextmanager
def busy(daemon: Daemon, log: Path) -> Iterator[Client]:
    """Two replicas with requests for minutes."""
    with daemon.client() as client:
        daemon.deploy(client, SERVABLES / "tally", replicas=2)
        daemon.replica_pids(client, "tally", at_least=2)
        for n in range(500):
            client.submit("tally.again", np.int64(n), parameters={"log": str(log), "sleep_s": 0.3}, timeout_s=None)
        until(log.exists, "the first one runs")
        yield client


@pytest.mark.parametrize("number", ENDS)
def test_a_busy_daemon_ends_with_everything(new_daemon: NewDaemon, tmp_path: Path, number: signal.Signals) -> None:
    daemon = new_daemon(pilots={"orphan_s": 4.0}).up()
    assert daemon.process is not None
    with busy(daemon, tmp_path / "log"):
        daemon.process.send_signal(number)
        daemon.process.wait(20)
        until(lambda: not daemon.processes(), lambda: f"all have ended: {daemon.commands()}", within_s=15)
        assert daemon.process.returncode == (0 if number != signal.SIGKILL else -signal.SIGKILL)
        assert daemon.record.exists() == (number == signal.SIGKILL)
        with pytest.raises(ServiceUnavailable):
            daemon.client()


def test_down_ends_a_busy_daemon_with_everything(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon().up()
    assert daemon.process is not None
    with busy(daemon, tmp_path / "log") as client:
        assert client.call("down", admin.Down(), admin.GoingDown).pid == daemon.process.pid
        assert daemon.process.wait(20) == 0
        assert not daemon.processes()


def go_down(daemon: Daemon, client: Client, way: str) -> None:
    if way == "call":
        client.call("down", admin.Down(), admin.GoingDown)
    else:
        os.kill(daemon.pid_of("supervisor"), signal.SIGTERM)


@contextlib.contextmanager
def stopped_agent(client: Client) -> Iterator[int]:
    """Without a word of its agent, the daemon does not get on with going down."""
    (agent,) = [each.pid for each in status(client).pilots]
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)
    try:
        yield agent
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(agent, signal.SIGCONT)


@pytest.mark.parametrize("way", ["call", "signal"])
@pytest.mark.parametrize("victim", ["controller", "agent"])
def test_what_dies_while_the_daemon_goes_down_does_not_keep_it_up(
    new_daemon: NewDaemon, tmp_path: Path, victim: str, way: str
) -> None:
    """A new controller ends the pilots; the replicas end with their agent."""
    daemon = new_daemon().up()
    assert daemon.process is not None
    with busy(daemon, tmp_path / "log") as client, stopped_agent(client) as agent:
        pid = agent if victim == "agent" else daemon.pid_of(victim)
        go_down(daemon, client, way)
        assert is_alive(pid)
        os.kill(pid, signal.SIGKILL)
        if victim != "agent":
            os.kill(agent, signal.SIGCONT)
        assert daemon.process.wait(20) == 0
        until(lambda: not daemon.processes(), lambda: f"all have ended: {daemon.commands()}", within_s=5)
        assert not daemon.record.exists()


def test_a_drain_outlives_its_controller(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon().up()
    assert daemon.process is not None
    gates = tmp_path / "gates"
    gates.mkdir()
    with daemon.client() as client:
        daemon.deploy(client, SERVABLES / "tally")
        parameters = {"log": str(tmp_path / "log"), "gates": str(gates)}
        call = client.submit("tally.again", np.int64(7), parameters=parameters, timeout_s=60.0)
        until((tmp_path / "log").exists, "it runs")
        client.call("down", admin.Down(pilots="drain"), admin.GoingDown)
        until(lambda: status(client).deployments[0].state == "draining", "it drains")
        pid = daemon.kill("controller")
        until(lambda: daemon.pid_of("controller") != pid, "there is another controller")
        assert status(client).deployments[0].state == "draining"
        (gates / "all").touch()
        assert int(call.result(60.0)["n"]) == 7
        assert daemon.process.wait(60) == 0
    until(lambda: not daemon.processes(), lambda: f"all have ended: {daemon.commands()}")
    with daemon.up().client() as client:
        daemon.replica_pids(client, "tally")


@pytest.mark.parametrize("way", ["call", "signal"])
def test_without_a_supervisor_the_daemon_ends_by_lifelines_and_the_pilot_by_itself(
    new_daemon: NewDaemon, tmp_path: Path, way: str
) -> None:
    """The daemon's processes see their lifelines end; an agent not yet told to leave waits for ``orphan_s``."""
    daemon = new_daemon(pilots={"orphan_s": 4.0}).up()
    assert daemon.process is not None
    with busy(daemon, tmp_path / "log") as client, stopped_agent(client) as agent:
        go_down(daemon, client, way)
        daemon.kill("supervisor")
        until(lambda: not any(started(daemon, name) for name in PROCESSES), "the lifelines have ended", within_s=5)
        assert is_alive(agent)
        os.kill(agent, signal.SIGCONT)
        until(lambda: not daemon.processes(), lambda: f"all have ended: {daemon.commands()}", within_s=15)
    daemon.up()


def test_a_second_signal_changes_nothing(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon().up()
    assert daemon.process is not None
    with busy(daemon, tmp_path / "log"):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            daemon.process.send_signal(number)
        assert daemon.process.wait(20) == 0
        assert not daemon.processes()


def started(daemon: Daemon, name: str) -> bool:
    return any(f"hpcserve.daemon.{name} " in command_of(pid) for pid in daemon.processes())


STAGES: dict[str, Callable[[Daemon], object]] = {
    "at once": lambda daemon: True,
    "with its directories": lambda daemon: daemon.state.exists(),
    "with its keys": lambda daemon: (daemon.state / "keys" / "service.key").exists(),
    "with a broker": lambda daemon: started(daemon, "broker"),
    "with admission": lambda daemon: started(daemon, "admission"),
    "with a store": lambda daemon: (daemon.state / "hpcserve.db").exists(),
    "with a record": lambda daemon: daemon.record.exists(),
}


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_start_that_is_ended_leaves_nothing_and_can_be_repeated(
    new_daemon: NewDaemon, stage: str, number: signal.Signals
) -> None:
    daemon = new_daemon()
    process = daemon.spawn()
    until(lambda: STAGES[stage](daemon), stage)
    os.kill(process.pid, number)
    process.wait(20)
    until(lambda: not daemon.processes(), lambda: f"all have ended: {daemon.commands()}", within_s=10)
    if stage in ("at once", "with a broker", "with a record"):
        daemon.up()
        daemon.client().close()


def test_a_second_daemon_is_told_of_the_first(new_daemon: NewDaemon) -> None:
    daemon = new_daemon().up()
    assert daemon.process is not None
    before = daemon.processes()
    rival = daemon.rival()
    said = rival.start()
    assert said["error"]["code"] == "conflict"
    assert str(daemon.process.pid) in said["error"]["message"]
    assert rival.process is not None
    assert rival.process.wait(10) == 1
    assert daemon.processes() == before
    assert rival.process.stdin is not None
    rival.process.stdin.close()
    daemon.client().close()


@pytest.mark.parametrize("port", ["admission_port", "front_port", "back_port"])
def test_a_port_in_use_is_said_with_the_setting(new_daemon: NewDaemon, port: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        daemon = new_daemon(network={port: number})
        said = daemon.start()
        assert said["error"]["code"] == "conflict"
        assert str(number) in said["error"]["message"]
        assert port in said["error"]["message"]
        assert daemon.process is not None
        assert daemon.process.wait(20) == 1
        assert not daemon.processes()


def test_a_state_directory_without_room_is_said(new_daemon: NewDaemon, tmp_path: Path) -> None:
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("a small file system can be mounted by root alone")
    try:
        daemon = new_daemon()
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        daemon.site.write_text(f'state_dir = "{state}"\n' + daemon.site.read_text())
        with contextlib.suppress(OSError):
            (tmp_path / "filler").write_bytes(b"x" * 100_000)
        said = daemon.start()
        assert said["error"]["code"] == "storage_full"
        assert str(state) in said["error"]["message"]
        assert daemon.process is not None
        assert daemon.process.wait(20) == 1
        assert not daemon.processes()
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
