"""What replicas see, want and tell of GPUs. The driver is a stand-in; its binding is the real one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import DeploymentFailed, InvalidInput
from hpcserve.wire import admin
from hpcserve.wire.messages import DeviceUse
from tests import nvml
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, until

PATIENCE_S = 60.0
GIB = 1 << 30


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Its node is said to have four GPUs, and names two."""
    made = Daemon(tmp_path_factory.mktemp("daemon"), pilots={"slots": 4, "gpus_per_node": 4, "max_pilots": 1})
    library = nvml.build(tmp_path_factory.mktemp("nvml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_LIBRARY_PATH", str(library))
        patch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaaaaaa-0000,MIG-cccccccc-2222")
        try:
            yield made.up()
        finally:
            made.end()


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client(timeout_s=60.0) as made:
        yield made


def wanting(place: Path, gpus: int) -> Path:
    """A servable that wants GPUs of its own."""
    servable = place / "wanting"
    shutil.copytree(SERVABLES / "devices", servable)
    manifest = servable / "servable.toml"
    manifest.write_text(f"{manifest.read_text()}\n[ranks]\ngpus_per_rank = {gpus}\n")
    return servable


def devices(client: Client) -> dict[str, tuple[DeviceUse, ...]]:
    return {each.replica: each.devices for each in deployment(client, "devices").replicas}


def test_replicas_share_gpus_and_status_tells_how_these_are_used(client: Client, daemon: Daemon) -> None:
    daemon.deploy(client, SERVABLES / "devices", replicas=4)
    until(lambda: sum(map(bool, devices(client).values())) == 4, "all have told", PATIENCE_S)
    told = devices(client)
    uses = sorted((each for (each,) in told.values()), key=lambda use: use.id)
    assert [(use.name, use.id, use.used_bytes, use.total_bytes) for use in uses] == [
        ("NVIDIA Stand-in", "GPU-aaaaaaaa-0000", 23 * GIB, 141 * GIB),
        ("NVIDIA Stand-in", "GPU-aaaaaaaa-0000", 23 * GIB, 141 * GIB),
        ("NVIDIA Stand-in", "MIG-cccccccc-2222", 25 * GIB, 141 * GIB),
        ("NVIDIA Stand-in", "MIG-cccccccc-2222", 25 * GIB, 141 * GIB),
    ]
    assert [use.busy_percent is None for use in uses] == [False, False, True, True]
    answer = client.infer("devices.run", np.int64(1), parameters={"sleep_s": 0.0})
    assert [answer["seen"]] == [use.id for use in told[answer.replica]], "it tells of what its servable sees"
    command = [sys.executable, "-m", "hpcserve.cli.main", "status"]
    shown = subprocess.run(
        command, env=os.environ | daemon.variables, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    (replica,) = [replica for replica, (use,) in told.items() if use is uses[0]]
    (row,) = [line for line in shown.splitlines() if line.startswith(replica) and "GPU-" in line]
    assert "NVIDIA Stand-in (GPU-aaaaaaaa…)" in row
    assert "23.0 GiB of 141.0 GiB" in row
    assert row.rstrip().endswith(" %")
    daemon.kill("broker")
    until(lambda: all(devices(client).values()), "a new broker is told", PATIENCE_S)
    before = uses[0].busy_percent
    until(lambda: devices(client)[replica][0].busy_percent != before, "it is read again", PATIENCE_S)
    client.call("undeploy", admin.Undeploy(endpoint="devices"), admin.Undeployed)


def test_a_replica_that_gets_fewer_gpus_than_it_wants_is_never_ready_and_says_so(
    client: Client, daemon: Daemon, tmp_path: Path
) -> None:
    endpoint = daemon.deploy(client, wanting(tmp_path, 2), endpoint="wanting")
    with pytest.raises(DeploymentFailed, match=r"to have 2 GPUs, and its slots? .* of 4 would give it 1 of 2: set"):
        client.infer(f"{endpoint}.run", np.int64(1), parameters={"sleep_s": 0.0})
    client.call("undeploy", admin.Undeploy(endpoint="wanting"), admin.Undeployed)


def test_a_site_without_gpus_takes_no_servable_that_wants_some(new_daemon: NewDaemon, tmp_path: Path) -> None:
    other = new_daemon().up()
    with other.client() as client, pytest.raises(InvalidInput, match=r"wants GPUs .* has none"):
        other.deploy(client, wanting(tmp_path, 1))
