"""A daemon is killed at each step of taking over from a killed one. Replicas and clients wait for the last one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcserve.wire.record import decode_record
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import PATIENCE_S, SERVABLES, Daemon, status, until

DOOMED = Path(__file__).resolve().parents[1] / "fakes" / "doomed_daemon.py"

STEPS = {
    "the directory is looked at": ("os.utime", "shared", 1),
    "the lease is written": ("open", ".lease-0", 1),
    "the lease is looked at again": ("os.utime", "shared", 2),
    "the lease is taken": ("os.link", "lease-0", 1),
    "the draft of the lease is removed": ("os.remove", ".lease-0", 1),
    "the epoch is remembered": ("os.rename", "lease-epoch", 1),
    "the old lease is removed": ("os.remove", "lease-0", 1),
    "the first process is started": ("open", "daemon-broker", 1),
    "the first process is noted": ("os.rename", "processes.json", 1),
    "the last process is noted": ("os.rename", "processes.json", 3),
    "the record is written": ("open", ".service.json", 1),
    "the record is replaced": ("os.rename", "service.json", 1),
    "the lease is renewed": ("os.rename", "lease-0", 1),
}


def doomed(daemon: Daemon, step: tuple[str, str, int]) -> int:
    """Starts one that dies at this step; returns its exit code when nothing of it is left but the pilot."""
    event, name, nth = step
    process = subprocess.Popen(
        [sys.executable, str(DOOMED), event, name, str(nth), "--site", str(daemon.site), "--tied"],
        env=os.environ | daemon.variables,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    code = process.wait(PATIENCE_S)
    assert process.stdin is not None
    process.stdin.close()
    until(lambda: not any("hpcserve.daemon." in each for each in daemon.commands()), "its processes end with it")
    return code


@pytest.mark.timeout(600)
def test_the_next_one_takes_over_whatever_the_one_before_had_done(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(pilots={"orphan_s": 600.0}).up()
    with daemon.client() as client:
        endpoint = daemon.deploy(client, SERVABLES / "spans")
        replicas = daemon.replica_pids(client, endpoint)
        log = daemon.home / "spans"
        parameters = {"log": str(log), "sleep_s": 0.5}
        futures = [
            client.submit(f"{endpoint}.run", np.int64(n), parameters=parameters, timeout_s=380.0) for n in range(3)
        ]
        until(log.exists, "requests are run")
        daemon.kill("supervisor")
        codes = {name: doomed(daemon, step) for name, step in STEPS.items()}
        assert codes == dict.fromkeys(STEPS, -signal.SIGKILL)
        daemon.up()
        assert [int(future.result(PATIENCE_S)["n"]) for future in futures] == [0, 1, 2]
        assert daemon.replica_pids(client, endpoint) == replicas
        told = status(client)
    begun = [line for line in log.read_text().splitlines() if line.startswith("begin")]
    assert len(begun) == len(futures), "each ran once"
    record = decode_record(daemon.record.read_bytes(), "it")
    assert (record.pid, record.epoch) == (told.processes["supervisor"], told.epoch)
    (lease,) = daemon.shared.glob("lease-*.json")
    assert int(lease.stem.removeprefix("lease-")) == record.epoch >> 20
