"""A replica is called ready when it can be given work: whoever it takes over from gets none from then on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import zmq

from hpcserve.registry.manifest_file import read_manifest
from hpcserve.replica.loop import UNCONNECTED_S
from hpcserve.servable.manifest import to_json
from hpcserve.wire.launch import ReplicaStart, decode_says, encode_line
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, until
from tests.own_python import make_servable

ECHO = EXAMPLES / "echo"


def start_of(servable: Path, tmp_path: Path) -> ReplicaStart:
    public, secret = zmq.curve_keypair()
    return ReplicaStart(
        replica="r-1",
        deployment="echo",
        version="v1",
        servable=str(servable),
        manifest=to_json(read_manifest(servable)),
        record=str(tmp_path / "no-daemon.json"),
        public_key=public,
        secret_key=secret,
        outbox_bytes=1 << 20,
        hang_grace_s=10.0,
    )


def test_a_replica_whose_agent_has_ended_meanwhile_begins_nothing(tmp_path: Path) -> None:
    """What prepares its environment may take long; nobody would notice it, and it would hold memory and GPUs."""
    servable = make_servable(tmp_path / "whence", "whence")
    (servable / "whence.py").write_text("raise SystemExit('it has begun')\n")
    replica = [sys.executable, "-m", "hpcserve.replica"]
    line = encode_line(start_of(servable, tmp_path))
    done = subprocess.run(replica, input=line, capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"the agent ended before this replica had begun" in done.stderr


def test_a_replica_waits_for_its_connection_but_not_for_ever(tmp_path: Path) -> None:
    start = start_of(ECHO, tmp_path)
    began_s = time.monotonic()
    replica = [sys.executable, "-m", "hpcserve.replica"]
    with subprocess.Popen(replica, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(encode_line(start))
        process.stdin.flush()
        assert decode_says(process.stdout.readline()).state == "ready"
        assert time.monotonic() - began_s >= UNCONNECTED_S
        process.stdin.close()
    assert process.returncode == 0


def test_a_replica_that_connects_again_is_the_same(new_daemon: NewDaemon) -> None:
    daemon = new_daemon().up()
    with daemon.client() as client:
        endpoint = daemon.deploy(client, ECHO)
        (pid,) = daemon.replica_pids(client, endpoint)
        daemon.kill("broker")
        until(lambda: daemon.replica_pids(client, endpoint) == [pid], "it is ready again")
        assert client.infer("echo.echo", np.ones(1, np.float32))["x"].tolist() == [1.0]
