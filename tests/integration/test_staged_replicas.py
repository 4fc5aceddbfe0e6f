"""Replicas that run from a copy of their image on their node: a daemon, its pilot, the real Apptainer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.wire import admin
from tests.integration import images
from tests.integration.daemon_tree import Daemon, deployment, until
from tests.integration.test_containers import servable


@pytest.fixture(scope="module")
def signed(python_image: Path, keys: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of the same size that differ."""
    place = tmp_path_factory.mktemp("images")
    made = [images.signed(python_image, place / f"{name}.sif", keys[0]) for name in "abc"]
    for image in made:
        with image.open("a") as file:
            file.write(image.stem)  # behind what is signed; of two that were signed in one second all is the same
    return made


@pytest.fixture
def equipped(
    signed: list[Path], keys: tuple[Path, Path, Path], image_dir: Path, tmp_path: Path
) -> Iterator[tuple[Daemon, Client]]:
    """A daemon on whose node there is room for the copy of one image."""
    (tmp_path / "local").mkdir()
    containers = {
        "runtime": "apptainer",
        "signature_key": str(keys[1]),
        "environment": ["TEST_DAEMON"],
        "stage_dir": str(tmp_path / "local"),
        "stage_bytes": signed[0].stat().st_size * 3 // 2,
    }
    daemon = Daemon(tmp_path, containers=containers)
    images.packages(daemon.shared, image_dir)
    try:
        with daemon.up().client() as client:
            yield daemon, client
    finally:
        daemon.end()


def damage(image: Path) -> None:
    """Changes its content, and neither size nor time."""
    before = image.stat()
    with image.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)[0]
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


def published(client: Client, place: Path, image: Path, name: str) -> str:
    directory = servable(place / name, image, name=name)
    return client.call("publish", admin.Publish(path=str(directory)), admin.Published).name


def deploy(client: Client, name: str, replicas: int) -> None:
    client.call("deploy", admin.Deploy(servable=name, replicas=replicas), admin.Deployed)


def ready(client: Client, name: str, replicas: int) -> tuple[admin.ReplicaView, ...]:
    def all_ready() -> tuple[admin.ReplicaView, ...] | None:
        found = deployment(client, name).replicas
        return found if [each.state for each in found] == ["ready"] * replicas else None

    return until(all_ready, lambda: f"{name} has {replicas}: {deployment(client, name).error}", 60.0) or ()


def test_replicas_start_from_one_copy_and_without_room_from_the_image(
    equipped: tuple[Daemon, Client], signed: list[Path], tmp_path: Path
) -> None:
    daemon, client = equipped
    local = tmp_path / "local" / f"hpcserve-{os.geteuid()}"
    for name, image in zip("abc", signed, strict=True):
        published(client, tmp_path, image, name)
    deploy(client, "a", 2)
    first = ready(client, "a", 2)
    assert all(each.phases["image"] > 0 and not each.cause for each in first)
    (copy,) = local.glob("*.sif")
    assert copy.stem == deployment(client, "a").image_sha256

    # The next one starts from the copy: the image itself would not run any more.
    damage(signed[0])
    deploy(client, "a", 3)
    ready(client, "a", 3)
    assert client.infer("a.double", np.ones(1))["y"].tolist() == [2.0]

    # Of another image there is no room for a copy, as long as those run.
    deploy(client, "b", 1)
    (other,) = ready(client, "b", 1)
    told = f"its image is read from {signed[1]}: no copy of it is on "
    assert other.cause.startswith(told)
    assert "containers.stage_dir: no room for" in other.cause
    assert told in (daemon.shared / "logs" / f"{other.replica}.log").read_text()
    assert client.infer("b.double", np.ones(1))["y"].tolist() == [2.0]

    # Whether it is signed is looked at where it runs.
    damage(copy)
    deploy(client, "a", 4)
    until(lambda: f"image {copy}: not signed by the key" in deployment(client, "a").error, "it is refused")
    daemon.down()
    assert not list(local.glob("*.sif")), "the pilot has removed its copies"


def test_an_image_that_is_not_the_published_one_is_not_copied(
    equipped: tuple[Daemon, Client], signed: list[Path], tmp_path: Path
) -> None:
    _, client = equipped
    published(client, tmp_path, signed[2], "c")
    damage(signed[2])
    deploy(client, "c", 1)
    told = f"image {signed[2]} is not the one with which the servable was published: its sha256 is another"
    until(lambda: told in deployment(client, "c").error, "it is refused")
