"""Slow calls right behind quick ones: they do not all wait at one replica while another has nothing to do."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, until

PATIENCE_S = 5.0
TRIES = 4


def test_what_lies_at_one_replica_is_shared_with_one_that_is_idle(daemon: Daemon, tmp_path: Path) -> None:
    """It reads that it is to give back when a call has ended: the first one, unless the machine stood still."""
    log, gates = tmp_path / "log", tmp_path / "gates"
    gates.mkdir()
    with daemon.client(timeout_s=120.0) as client:
        daemon.deploy(client, SERVABLES / "tally")
        (first,) = daemon.replica_pids(client, "tally")
        quick = {"log": str(tmp_path / "quick")}
        for each in [client.submit("tally.once", np.int64(0), parameters=quick) for _ in range(300)]:
            each.result()
        held = {"log": str(log), "gates": str(gates)}
        slow = [client.submit("tally.once", np.int64(n), parameters=held) for n in range(10)]
        until(lambda: deployment(client, "tally").replicas[0].waiting == 10, "one replica holds all of them")
        daemon.deploy(client, SERVABLES / "tally", replicas=2)
        daemon.replica_pids(client, "tally", at_least=2)

        def elsewhere() -> int:
            view = deployment(client, "tally")
            return view.queued + sum(each.waiting for each in view.replicas if each.pid != first)

        for n in range(TRIES):
            (gates / str(n)).touch()
            until_s = time.monotonic() + PATIENCE_S
            while elsewhere() < 2 and time.monotonic() < until_s:
                time.sleep(0.02)
            if elsewhere() >= 2:
                break
        assert elsewhere() >= 2, "it has given back a fair part, and not one at a time"
        (gates / "all").touch()
        assert [int(each.result()["n"]) for each in slow] == list(range(10))
    ran = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(n) for n, _, _ in ran) == list(range(10)), "each ran once"
    assert len({replica for _, replica, _ in ran}) == 2
