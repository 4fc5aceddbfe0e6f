"""A real replica that computes with torch: its device is too small for a batch, or breaks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import PoisonRequest, ServableError
from hpcserve.wire import admin
from hpcserve.wire.messages import BatchesRun
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, status, until

ROOM = 8
"""Samples that the servable's device has memory for."""
OVERRIDES = {"pilots": {"setup_timeout_s": 60.0}}
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client(timeout_s=60.0) as made:
        daemon.deploy(made, SERVABLES / "narrow")
        until(lambda: daemon.replica_pids(made, "narrow"), "it is ready", PATIENCE_S)
        yield made


def outcomes(client: Client, method: str, values: list[int]) -> list[Any]:
    futures = [client.submit(f"narrow.{method}", np.array([value])) for value in values]
    return [future.exception(60) or future.result() for future in futures]


def learned(client: Client) -> BatchesRun | None:
    kinds = [kind for one in status(client).deployments for each in one.replicas for kind in each.learned]
    return next((kind for kind in kinds if kind.method == "double"), None)


def test_a_batch_without_memory_is_halved_and_the_limit_is_remembered_and_shown(client: Client, daemon: Daemon) -> None:
    (pid,) = daemon.replica_pids(client, "narrow")

    def is_halved() -> bool:
        values = list(range(100))
        assert [int(each["y"][0]) for each in outcomes(client, "double", values)] == [2 * n for n in values]
        kind = learned(client)
        return kind is not None and ROOM / 2 <= kind.limit <= ROOM and kind.mean > 1

    until(is_halved, "its batches have no more samples than there is memory for", PATIENCE_S)
    command = [sys.executable, "-m", "hpcserve.cli.main", "status"]

    def is_shown() -> bool:
        """A limit below the remembered one changes with what batches teach."""
        before = learned(client)
        shown = subprocess.run(
            command, env=os.environ | daemon.variables, capture_output=True, text=True, timeout=60, check=True
        )
        (row,) = [line for line in shown.stdout.splitlines() if line.startswith("double ")]
        return before is not None and str(before.limit) in row.split()

    until(is_shown, "the limit is shown", PATIENCE_S)
    # It outlives new wishes, and a new broker.
    wanted = admin.Deploy(servable="narrow", endpoint="narrow", objective_ms=10_000.0, max_batch_size=64)
    client.call("deploy", wanted, admin.Deployed)
    daemon.kill("broker")
    for _ in range(3):
        outcomes(client, "double", list(range(100)))
    until(lambda: learned(client) is not None, "the new broker is told", PATIENCE_S)
    kind = learned(client)
    assert kind is not None
    assert kind.limit <= ROOM
    with pytest.raises(ServableError, match=r"OutOfMemoryError: CUDA out of memory. Tried to allocate 9"):
        client.infer("narrow.double", np.arange(9))
    assert daemon.replica_pids(client, "narrow") == [pid]


def test_a_broken_device_ends_its_replica_and_convicts_nobody_else(client: Client, daemon: Daemon) -> None:
    (before,) = daemon.replica_pids(client, "narrow")
    lost = len(status(client).losses)
    values = [-1 if n == 30 else n for n in range(60)]
    found = outcomes(client, "touchy", values)
    convicted = found.pop(30)
    assert isinstance(convicted, PoisonRequest)
    assert [int(each["y"][0]) for each in found] == [2 * n for n in values if n >= 0]
    pids = {int(each["pid"][0]) for each in found}
    assert pids - {before}, "those that were in its batch were answered by its successor"
    losses = until(lambda: status(client).losses[lost:], "the loss is told", PATIENCE_S)
    assert {each.kind for each in losses} == {"crashed"}
    assert "exit code 4" in losses[-1].cause
    log = client.call("logs", admin.AskLogs(name=losses[-1].replica), admin.Logs).logs[0].text
    assert "for its GPU can compute no more in this process: AcceleratorError: CUDA error: an illegal memory" in log
    assert "torn down" not in log
    until(lambda: deployment(client, "narrow").state == "ready", "it is replaced", PATIENCE_S)
