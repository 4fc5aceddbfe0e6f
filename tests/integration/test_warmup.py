"""Replicas that warm up before they are ready, and how long each phase of their start took."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeploymentFailed, ManifestError
from hpcserve.types import PHASES
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, status

SLOW_S = 0.25
WAIT_S = 60.0


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        yield made


def with_sample(directory: Path, sample: str) -> Path:
    """The servable with other values in its warm-up."""
    shutil.copytree(SERVABLES / "warm", directory)
    manifest = directory / "servable.toml"
    manifest.write_text(re.sub("x = .*]", f"x = {sample}", manifest.read_text()))
    return directory


def test_a_replica_is_ready_after_its_warm_up_and_the_phases_are_told(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "warm")
    seen = client.infer(f"{endpoint}.seen", np.zeros(1, np.int64), timeout_s=WAIT_S)["seen"]
    assert seen == [2, 4], "the samples as they are, and in the preferred batch size"

    daemon.replica_pids(client, endpoint)
    (replica,) = deployment(client, endpoint).replicas
    (pilot,) = status(client).pilots
    assert set(pilot.phases) == {"queue", "agent"}
    assert set(replica.phases) == {"start", "import", "load", "warm-up", "connect"}
    assert {*pilot.phases, *replica.phases} <= set(PHASES)
    assert all(0 <= took_s < WAIT_S for took_s in (pilot.phases | replica.phases).values())
    for phase in ("import", "load", "warm-up"):
        assert replica.phases[phase] >= SLOW_S, phase
    assert replica.phases["start"] > 0


def test_without_a_warm_up_there_is_no_such_phase(client: Client, daemon: Daemon) -> None:
    endpoint = daemon.deploy(client, SERVABLES / "batches")
    daemon.replica_pids(client, endpoint)
    (replica,) = deployment(client, endpoint).replicas
    assert set(replica.phases) == {"start", "import", "load", "connect"}


def test_a_warm_up_that_fails_fails_the_deployment(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    endpoint = daemon.deploy(client, with_sample(tmp_path / "unlucky", "[13]"), endpoint="unlucky")
    with pytest.raises(DeploymentFailed) as failed:
        client.infer(f"{endpoint}.predict", np.zeros(1, np.int64), timeout_s=WAIT_S)
    said = "the warm-up (warmup[0], method 'predict', samples: 1) failed: method 'predict' failed: ValueError: unlucky"
    assert said in failed.value.message
    assert "in predict" in (failed.value.remote_traceback or "")


def test_a_warm_up_that_does_not_fit_is_not_published(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    said = re.escape("warmup[0]: method 'predict': input 'x' has shape [1, 1], expected [any]")
    with pytest.raises(ManifestError, match=said):
        daemon.deploy(client, with_sample(tmp_path / "wrong", "[[1]]"))
