"""The data sockets as files: used on the daemon's own host, unless the site says TCP."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from hpcserve import Client
from hpcserve.client.keys import client_keys
from hpcserve.client.services import Service
from hpcserve.config import runtime_dir
from hpcserve.wire.frames import encode
from hpcserve.wire.messages import Ack
from hpcserve.wire.record import ServiceRecord, decode_record
from tests.integration.daemon_tree import EXAMPLES, Daemon, is_alive, until


def tcp_connections(pid: int) -> int:
    """How many TCP connections a process has."""
    inodes = {line.split()[9] for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]}
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    return sum(link.removeprefix("socket:[").removesuffix("]") in inodes for link in links)


def serves(daemon: Daemon, service: Service | None = None) -> tuple[int, int]:
    """Calls a replica of ``echo``; returns the TCP connections of the client and of the replica."""
    before = tcp_connections(os.getpid())
    x = np.arange(64, dtype=np.float32)
    blob = np.zeros(3_000_000, np.uint8)
    with daemon.environment(), Client(service or Service(daemon.record)) as client:
        daemon.deploy(client, EXAMPLES / "echo")
        assert client.infer("echo.echo", x)["x"].tolist() == x.tolist()
        assert client.infer("echo.blob", blob)["blob"].nbytes == blob.nbytes
        (replica,) = daemon.replica_pids(client, "echo")
        return tcp_connections(os.getpid()) - before, tcp_connections(replica)


def record_of(daemon: Daemon) -> ServiceRecord:
    return decode_record(daemon.record.read_bytes(), str(daemon.record))


@pytest.mark.parametrize("unix_sockets", [True, False])
def test_peers_on_the_same_host_use_the_files_if_there_are_any(
    new_daemon: Callable[..., Daemon], *, unix_sockets: bool
) -> None:
    daemon = new_daemon(network={"unix_sockets": unix_sockets}).up()
    files = {each.name for each in runtime_dir(daemon.state).iterdir()} & {"front", "back"}
    assert files == ({"front", "back"} if unix_sockets else set())
    assert serves(daemon) == ((0, 0) if unix_sockets else (1, 1))


def test_a_client_that_cannot_reach_the_file_uses_tcp(new_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = new_daemon().up()
    elsewhere = tmp_path / "service.json"
    elsewhere.write_bytes(msgspec.json.encode(msgspec.structs.replace(record_of(daemon), host="another")))
    assert serves(daemon, Service(elsewhere))[0] == 1


def test_many_clients_at_once_are_all_let_in(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon().up()
    at_once = 2 * 100  # what libzmq queues for a socket of its own accord, twice
    with daemon.environment(), Client(Service(daemon.record)):  # the key is admitted
        keys, record = client_keys(), record_of(daemon)
        broker = daemon.pid_of("broker")
        os.kill(broker, signal.SIGSTOP)
        try:
            with zmq.Context() as context, contextlib.ExitStack() as stack:
                peers = [stack.enter_context(context.socket(zmq.DEALER)) for _ in range(at_once)]
                for each in peers:
                    each.linger, each.reconnect_ivl = 0, -1
                    each.curve_serverkey = record.public_key.encode()
                    each.curve_publickey, each.curve_secretkey = keys.public, keys.secret
                    each.connect(f"ipc://{record.front_file}")
                    each.send(encode(Ack(1, ())), zmq.NOBLOCK)  # whoever has no session is asked who it is
                os.kill(broker, signal.SIGCONT)
                for each in peers:
                    assert each.poll(20_000), "a connection was refused"
        finally:
            os.kill(broker, signal.SIGCONT)


def test_a_new_broker_has_the_files_of_the_killed_one(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon().up()
    known = record_of(daemon)
    assert serves(daemon) == (0, 0)
    daemon.kill("broker")
    until(lambda: record_of(daemon).epoch > known.epoch, "a record of the new broker")
    assert serves(daemon) == (0, 0)


def test_a_stopped_broker_whose_supervisor_was_killed_keeps_nobody(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon().up()
    rival = daemon.rival()
    with contextlib.ExitStack() as stack:
        stack.callback(rival.end)
        client = stack.enter_context(daemon.client(timeout_s=120.0))
        daemon.deploy(client, EXAMPLES / "echo")
        replicas = daemon.replica_pids(client, "echo")
        stopped = daemon.pid_of("broker")
        stack.callback(end, stopped)
        os.kill(stopped, signal.SIGSTOP)
        daemon.kill("supervisor")
        rival.up()
        assert not is_alive(stopped)
        x = np.arange(64, dtype=np.float32)
        assert client.infer("echo.echo", x)["x"].tolist() == x.tolist()
        assert daemon.replica_pids(client, "echo") == replicas, "they have gone over, and are the same"


def end(pid: int) -> None:
    """Kills what a failed test has left stopped."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
