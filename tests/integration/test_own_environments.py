"""Servables in interpreters of their users' own: published, run and refused by a real daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve import Client
from hpcserve.errors import DeploymentFailed
from hpcserve.wire.jsonvalue import Json
from tests.integration.daemon_tree import Daemon, deployment, until
from tests.own_python import NEEDED, make_conda, make_module, make_servable, make_venv, need_modules

WAIT_S = 60.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a virtual environment, a conda environment, a module that leads to its Python, and servables for them."""
    need_modules()
    root = tmp_path_factory.mktemp("own")
    prefix = make_conda(root / "conda", *NEEDED)
    (prefix / "etc" / "conda" / "activate.d" / "a.sh").write_text('export ACTIVATED="$CONDA_PREFIX, $SITE"\n')
    make_module(root / "modules", "ml/1.0", f"prepend-path PATH {prefix}/bin\nsetenv ML {{1 0}}\n")
    make_venv(root / "venv", *NEEDED)
    make_servable(root / "by-venv", "by-venv", kind="venv", path=str(root / "venv"))
    make_servable(root / "by-conda", "by-conda", kind="conda", path=str(prefix))
    make_servable(root / "by-module", "by-module", kind="module", modules=["ml/1.0"])
    return root


@pytest.fixture(scope="module")
def daemon(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    prologue = [f"module use {place}/modules", "export SITE='of the site'"]
    made = Daemon(tmp_path_factory.mktemp("daemon"), environments={"prologue": prologue})
    try:
        yield made.up()
    finally:
        made.end()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        yield made


def told(client: Client, endpoint: str, *names: str) -> dict[str, str | None]:
    return dict(client.infer(endpoint, Json(list(names)), timeout_s=WAIT_S)["told"])


def why_not_again(client: Client, daemon: Daemon, endpoint: str) -> str:
    """How the callers learn that the replica, once it has ended, cannot be started again."""
    (pid,) = daemon.replica_pids(client, endpoint)
    os.kill(pid, signal.SIGKILL)
    until(lambda: deployment(client, endpoint).state == "failed", "its replica cannot be started again", WAIT_S)
    with pytest.raises(DeploymentFailed) as failed:
        told(client, endpoint)
    return failed.value.message


def test_a_virtual_environment_answers(client: Client, daemon: Daemon, place: Path) -> None:
    endpoint = daemon.deploy(client, place / "by-venv")
    assert told(client, endpoint, "SITE") == {"prefix": f"{place}/venv", "SITE": "of the site"}


def test_a_virtual_environment_that_is_gone_fails_the_deployment_in_words(
    client: Client, daemon: Daemon, tmp_path: Path
) -> None:
    place = make_venv(tmp_path / "venv", *NEEDED)
    endpoint = daemon.deploy(client, make_servable(tmp_path / "gone", "gone", kind="venv", path=str(place)))
    assert told(client, endpoint)["prefix"] == str(place)
    place.rename(tmp_path / "elsewhere")
    assert str(place) in why_not_again(client, daemon, endpoint)


def test_a_conda_environment_answers(client: Client, daemon: Daemon, place: Path) -> None:
    endpoint = daemon.deploy(client, place / "by-conda")
    expected = {"prefix": f"{place}/conda", "ACTIVATED": f"{place}/conda, of the site"}
    assert told(client, endpoint, "ACTIVATED") == expected


def test_a_module_answers(client: Client, daemon: Daemon, place: Path) -> None:
    endpoint = daemon.deploy(client, place / "by-module")
    expected = {"prefix": f"{place}/conda", "ML": "1 0", "LOADEDMODULES": "ml/1.0", "SITE": "of the site"}
    assert told(client, endpoint, "ML", "LOADEDMODULES", "SITE") == expected


def test_a_module_that_is_gone_fails_the_deployment_in_words(client: Client, daemon: Daemon, place: Path) -> None:
    modules = make_module(place / "modules", "brief/1.0", f"prepend-path PATH {place}/conda/bin\n")
    servable = make_servable(place / "brief", "brief", kind="module", modules=["brief/1.0"])
    endpoint = daemon.deploy(client, servable)
    told(client, endpoint)
    (modules / "brief" / "1.0").unlink()
    assert "module load brief/1.0 failed; see what it said, and correct" in why_not_again(client, daemon, endpoint)


def test_a_package_that_is_gone_fails_the_deployment_in_words(client: Client, daemon: Daemon, tmp_path: Path) -> None:
    prefix = make_conda(tmp_path / "conda", *NEEDED)
    servable = make_servable(tmp_path / "lacking", "lacking", kind="conda", path=str(prefix))
    endpoint = daemon.deploy(client, servable)
    told(client, endpoint)
    for package in prefix.glob("lib/python*/site-packages/zmq"):
        package.unlink()
    said = why_not_again(client, daemon, endpoint)
    assert f"{prefix}/bin/python on " in said
    assert "lacks pyzmq: the environment needs pyzmq, msgspec and numpy" in said
