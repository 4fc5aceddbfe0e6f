"""Replicas that are to end or to share while something happens to what they hold: nothing is lost, none runs twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import OutcomeUnknown
from hpcserve.wire import admin
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, until

OVERRIDES = {"pilots": {"slots": 4}, "recovery": {"recovery_grace_s": 5.0, "session_linger_s": 10.0}}


def scale(client: Client, endpoint: str, replicas: int) -> None:
    client.call("deploy", admin.Deploy(servable=endpoint, replicas=replicas), admin.Deployed)


def test_a_replica_that_is_to_end_waits_for_its_streams(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.client() as client:
        daemon.deploy(client, SERVABLES / "streams", replicas=2)
        before = daemon.replica_pids(client, "streams", at_least=2)
        until(lambda: all(each.connected for each in deployment(client, "streams").replicas), "both are there")
        logs = [tmp_path / str(number) for number in range(2)]
        streams = [
            client.stream("streams.slow", np.int64(300), parameters={"log": str(log), "pause_s": 0.005}, window=4)
            for log in logs
        ]
        heads = [int(next(each)["y"]) for each in streams]
        assert sorted(each.waiting for each in deployment(client, "streams").replicas) == [1, 1], "one at each replica"
        scale(client, "streams", 1)
        until(lambda: "retiring" in {each.state for each in deployment(client, "streams").replicas}, "one is to end")
        for head, items in zip(heads, streams, strict=True):
            assert [head, *(int(each["y"]) for each in items)] == list(range(300))
        assert [Path(f"{log}.ended").read_text() for log in logs] == ["ended\n", "ended\n"], "each ran once"
        until(lambda: len(deployment(client, "streams").replicas) == 1, "it has ended")
        assert set(daemon.replica_pids(client, "streams")) < set(before)


@pytest.mark.parametrize("replicas", [0, 2])
@pytest.mark.parametrize("method", ["again", "once"])
def test_a_broker_that_dies_while_work_is_given_back(
    daemon: Daemon, tmp_path: Path, method: str, replicas: int
) -> None:
    """With 0 replicas all is asked of the one that is to end, with 2 a part of one that goes on.

    What had been given back when the broker died is nowhere, so it is not run if it must not run twice.
    """
    log = tmp_path / "log"
    with daemon.client(timeout_s=60.0) as client:
        daemon.deploy(client, SERVABLES / "tally")
        until(lambda: [each.state for each in deployment(client, "tally").replicas] == ["ready"], "one is there")
        quick = {"log": str(tmp_path / "quick")}
        for each in [client.submit(f"tally.{method}", np.int64(0), parameters=quick) for _ in range(200)]:
            each.result()
        gates = tmp_path / "gates"
        gates.mkdir()
        slow = {"log": str(log), "gates": str(gates), "sleep_s": 0.1}
        futures = [client.submit(f"tally.{method}", np.int64(n), parameters=slow) for n in range(10)]
        until(lambda: deployment(client, "tally").replicas[0].waiting == 10, "one replica holds all of them")
        scale(client, "tally", replicas)
        (gates / "all").touch()
        daemon.kill("broker")
        scale(client, "tally", 2)
        errors = {n: each.exception(60) for n, each in enumerate(futures)}
        answered = [n for n, error in errors.items() if error is None]
        assert [int(futures[n].result()["n"]) for n in answered] == answered
    ran = Counter(int(line.split()[0]) for line in log.read_text().splitlines())
    assert set(ran.values()) == {1}, "none ran twice"
    if method == "again":
        assert answered == list(range(10)), "nothing is lost"
    else:
        assert {type(error) for error in errors.values()} <= {type(None), OutcomeUnknown}
    assert sorted(ran) == answered, "what is not answered did not run"
