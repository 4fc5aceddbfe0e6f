"""The images on which those of servables stand: Debian, from the mirror of this machine's apt, and what is put over it.

They are kept in the user's cache: the first time takes minutes.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration import images
from tests.integration.test_image_builds import build, servable, told

pytestmark = pytest.mark.timeout(900)

RANKS = "from mpi4py import MPI; c = MPI.COMM_WORLD; print(c.rank, c.size, MPI.Get_library_version()[:9], sep=',')"
TORCH = "import torch; print(torch.__version__.split('+')[0], torch.ones(3).numpy().sum())"


def inside(image: Path, *argv: str) -> str:
    """What a command prints in a container."""
    command = ["apptainer", "--silent", "exec", "--containall", "--no-home", str(image), *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_servable_without_a_base_stands_on_debian_s_own_python(tmp_path: Path) -> None:
    images.need_apptainer()
    images.standard()
    image = tmp_path / "standard.sif"
    done = build(servable(tmp_path / "built", image, "post = [\"python3 -c 'import zmq, msgspec, numpy'\"]\n"))
    assert (done.returncode, done.stdout.strip()) == (0, f"built {image}"), told(done)


@pytest.mark.parametrize(
    ("base", "options", "named"),
    [
        (["mpich", "torch==2.13.0"], (), "MPICH Ver"),
        (["openmpi"], ("--allow-run-as-root", "--oversubscribe"), "Open MPI "),
    ],
)
def test_it_can_stand_on_an_mpi_and_on_torch(
    tmp_path: Path, base: list[str], options: tuple[str, ...], named: str
) -> None:
    images.need_apptainer()
    images.standard(*base)
    image = tmp_path / "layered.sif"
    done = build(servable(tmp_path / "built", image, f"base = {json.dumps(base)}\n"))
    assert (done.returncode, done.stdout.strip()) == (0, f"built {image}"), told(done)
    ranks = inside(image, "mpiexec", *options, "-n", "2", "python3", "-c", RANKS).splitlines()
    assert sorted(ranks) == [f"0,2,{named}", f"1,2,{named}"]
    if "torch==2.13.0" in base:
        assert inside(image, "python3", "-c", TORCH) == "2.13.0 3.0\n"
