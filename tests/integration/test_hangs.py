"""A request that never ends, in a servable that sleeps for ever: its replica is killed and replaced."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeadlineExceeded
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, is_alive, until

GRACE = {"recovery": {"hang_grace_s": 1.0}}


@pytest.mark.parametrize("killed", [(), ("broker",), ("broker", "controller")])
def test_a_replica_that_hangs_is_killed_and_replaced(
    new_daemon: NewDaemon, tmp_path: Path, killed: tuple[str, ...]
) -> None:
    """It does not read, connect or report: a broker that was not there before cannot know what it does."""
    daemon = new_daemon(**GRACE).up()
    with daemon.client() as client:
        hung = hang(daemon, client, tmp_path / "began")
        for process in killed:
            daemon.kill(process)
        until(lambda: not is_alive(hung), "the replica that hangs was killed")
        assert client.infer("hangs", np.int64(5), timeout_s=30)["n"] == 5
        assert hung not in daemon.replica_pids(client, "hangs")
        if not killed:
            error = deployment(client, "hangs").error
            assert re.fullmatch(
                r"replica hangs-\S+ was killed and replaced: a request was \d+ s past its deadline", error
            )
    if killed:
        said = "".join(path.read_text() for path in (daemon.shared / "logs").rglob("hangs-*"))
        assert "hangs.py" in said, "nobody else ended it, so it says where it was"


def test_a_request_without_a_deadline_may_run_on(new_daemon: NewDaemon, tmp_path: Path) -> None:
    """Neither what waits behind it nor what ran before it, each with a deadline, has its replica killed."""
    daemon = new_daemon(recovery={"hang_grace_s": 0.1}).up()
    with daemon.client(timeout_s=None) as client:
        daemon.deploy(client, SERVABLES / "tally")
        replicas = daemon.replica_pids(client, "tally")
        log = tmp_path / "log"
        again = {"log": str(log)}
        assert client.infer("tally.again", np.int64(1), parameters=again, timeout_s=4.0)["n"] == 1
        long = client.submit("tally.again", np.int64(2), parameters=again | {"sleep_s": 8.0})
        until(lambda: len(log.read_text().splitlines()) == 2, "it runs")
        with pytest.raises(DeadlineExceeded):
            client.infer("tally.again", np.int64(3), parameters=again, timeout_s=0.5)
        assert long.result(30)["n"] == 2
        assert daemon.replica_pids(client, "tally") == replicas


def hang(daemon: Daemon, client: Client, log: Path) -> int:
    """Has a replica hang, in a request with a deadline; returns its pid."""
    daemon.deploy(client, SERVABLES / "hangs")
    (replica,) = daemon.replica_pids(client, "hangs")
    client.submit("hangs", np.int64(1), parameters={"log": str(log)}, timeout_s=4.0)
    until(log.exists, "its request runs")
    return replica
