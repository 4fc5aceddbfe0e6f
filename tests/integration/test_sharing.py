"""Slow calls right behind quick ones: they do not all wait at one replica while another has nothing to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, until


def test_what_lies_at_one_replica_is_shared_with_one_that_is_idle(daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with daemon.client(timeout_s=60.0) as client:
        daemon.deploy(client, SERVABLES / "tally")
        daemon.replica_pids(client, "tally")
        quick = {"log": str(tmp_path / "quick")}
        for each in [client.submit("tally.once", np.int64(0), parameters=quick) for _ in range(300)]:
            each.result()
        slow = [
            client.submit("tally.once", np.int64(n), parameters={"log": str(log), "sleep_s": 1.0}) for n in range(10)
        ]
        until(lambda: deployment(client, "tally").replicas[0].waiting == 10, "one replica holds all of them")
        daemon.deploy(client, SERVABLES / "tally", replicas=2)
        assert [int(each.result()["n"]) for each in slow] == list(range(10))
    ran = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(n) for n, _, _ in ran) == list(range(10)), "each ran once"
    assert len({replica for _, replica, _ in ran}) == 2
    assert len({replica for _, replica, _ in ran}) == 2
