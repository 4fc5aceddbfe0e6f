"""Ten thousand queued requests while replicas come and go: each is answered once, and each ran once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeadlineExceeded
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import SERVABLES, deployment, until

REQUESTS = 10_000


def scale(client: Client, replicas: int) -> None:
    client.call("deploy", admin.Deploy(servable="tally", replicas=replicas), admin.Deployed)


def test_nothing_is_lost_and_nothing_runs_twice(new_daemon: NewDaemon, tmp_path: Path) -> None:
    daemon = new_daemon(pilots={"slots": 8}).up()
    log = tmp_path / "log"
    log.touch()

    def ran() -> int:
        return log.read_bytes().count(b"\n")

    with daemon.client(timeout_s=None) as client:
        daemon.deploy(client, SERVABLES / "tally", replicas=0)
        assert deployment(client, "tally").state == "paused"
        parameters = {"log": str(log), "sleep_s": 0.001}
        futures = [client.submit("tally.once", np.int64(n), parameters=parameters) for n in range(REQUESTS)]
        until(lambda: deployment(client, "tally").queued == REQUESTS, "they wait")
        for replicas, more in ((4, 2000), (0, 0), (2, 1000), (1, 1000), (4, 1000), (0, 0), (2, 0)):
            wanted = min(REQUESTS, ran() + more)
            scale(client, replicas)
            until(lambda wanted=wanted: ran() >= wanted, f"{replicas} replicas have run some", 60)  # type: ignore[misc]
            if not replicas:
                until(lambda: not deployment(client, "tally").replicas, "all replicas have ended")
                view = deployment(client, "tally")
                assert (view.state, view.error, view.queued) == ("paused", "", REQUESTS - ran())
        answers = [int(each.result(120)["n"]) for each in futures]
        assert answers == list(range(REQUESTS))
        counts = client.call("status", admin.AskStatus(), admin.Status)
        assert (counts.requests, counts.answered, counts.failed) == (REQUESTS, REQUESTS, 0)
        assert deployment(client, "tally").restarts == 0
    lines = [line.split() for line in log.read_text().splitlines()]
    assert Counter(int(n) for n, _, _ in lines) == Counter(range(REQUESTS))
    assert len({replica for _, replica, _ in lines}) >= 8, "many replicas had their part"


def test_one_that_is_to_end_finishes_what_it_runs_and_gives_back_the_rest(
    new_daemon: NewDaemon, tmp_path: Path
) -> None:
    daemon = new_daemon().up()
    log = tmp_path / "log"
    with daemon.client(timeout_s=None) as client:
        daemon.deploy(client, SERVABLES / "tally")
        (pid,) = daemon.replica_pids(client, "tally")
        parameters = {"log": str(log)}
        sleeps_s = (6.0, 0.0, 0.0, 0.0, 0.0)  # it is to be told long before the first one ends
        futures = [
            client.submit("tally.once", np.int64(n), parameters=parameters | {"sleep_s": sleep_s})
            for n, sleep_s in enumerate(sleeps_s)
        ]
        until(log.exists, "one runs")
        scale(client, 0)
        until(lambda: deployment(client, "tally").queued == 4, "the others were given back")
        assert futures[0].result(30)["n"] == 0
        until(lambda: not deployment(client, "tally").replicas, "it has ended")
        assert re.fullmatch(rf"0 \S+ {pid}\n", log.read_text())
        with pytest.raises(DeadlineExceeded):
            client.infer("tally.once", np.int64(9), parameters=parameters, timeout_s=0.3)
        scale(client, 2)
        assert [int(each.result(30)["n"]) for each in futures] == [0, 1, 2, 3, 4]
    assert sorted(line.split()[0] for line in log.read_text().splitlines()) == list("01234")
