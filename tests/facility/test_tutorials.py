"""The tutorials do on a real Slurm what they say; tests/integration/test_docs.py runs what they do on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.options import Options
from tests.integration import images
from tests.integration.pages import Block, Page, Shell
from tests.integration.test_image_builds import build, servable

pytestmark = [pytest.mark.facility, pytest.mark.timeout(900)]

CLUSTER = """
base = "facility"
[pilots]
stop_grace_s = 2.0
"""
COMMAND_S = 600.0
"""Where none of an image's layers is in the user's cache yet."""


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(nodes=2)


@pytest.fixture
def shell(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A user's on the login node, in an empty directory; they have a site file ``cluster``."""
    home = box.directory / "homes" / tmp_path.name
    (home / "sites").mkdir(parents=True)
    home.chmod(0o700)
    (home / "sites" / "cluster.toml").write_text(CLUSTER)
    monkeypatch.setenv("HPCSERVE_HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    used: dict[str, str] = {}

    def run(command: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        used.update(variables)
        argv = ["bash", "-c", f"exec 2>&1; {command}"]
        return box.run(LOGIN, argv, env=dict(variables), timeout_s=COMMAND_S, check=False)

    yield run
    run("hpcserve down", used)


def test_a_model_is_divided_among_two_nodes(shell: Shell) -> None:
    def on_slurm(block: Block) -> bool:
        return block.mark == "file" or (block.mark, block.value) == ("only", "Slurm")

    assert Page("docs/tutorials/a-model-too-large-for-one-gpu.md", shell, on_slurm).run()


def test_a_torch_model_in_containers_has_a_gpu_for_each_replica_or_rank(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.need_apptainer()
    # From the box no packages can be had: all that an image of such layers needs is gathered here.
    images.standard("mpich", "torch==2.13.0")
    first = servable(tmp_path / "first", tmp_path / "first.sif", 'base = ["mpich", "torch==2.13.0"]\n')
    assert build(first).returncode == 0
    # The image lies in the user's home; the layers below it are those of the next run of the tests, too.
    for name, directory in (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config")):
        monkeypatch.setenv(name, os.environ.get(name, str(Path.home() / directory)))
    monkeypatch.setenv("HOME", str(tmp_path))

    def on_processors(block: Block) -> bool:
        return block.mark != "only" or block.value == "nodes without GPUs"

    assert Page("docs/tutorials/torch-in-a-container.md", shell, on_processors).run()
