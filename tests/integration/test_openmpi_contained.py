"""Two ranks by Open MPI's own mpiexec, each in a container of the real Apptainer; the site binds its MPI into them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve.cluster.gather import gather_prefix
from tests.integration import images
from tests.integration.daemon_tree import Daemon

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 90.0
VERSION = "openmpi>=5,<6"
MANIFEST = """name = "boxed"
loader = "python"
entry = "model:Model"
[ranks]
size = 2
compute = "collective"
[environment]
kind = "container"
"""
CODE = """
import os
import numpy as np
from mpi4py import MPI
from hpcserve import Tensor, method

class Model:
    @method(inputs={"x": Tensor("int64", [-1])}, outputs={"y": Tensor("int64", [-1])})
    def total(self, x, comm):
        whole = np.empty_like(x)
        comm.Allreduce(x * (comm.rank + 1), whole)
        return whole

    @method(inputs={}, outputs={"seen": Tensor("JSON", ())})
    def look(self, comm):
        return comm.allgather([comm.size, MPI.Get_library_version()[:8], sorted(os.listdir("/tmp"))])
"""


@pytest.fixture(scope="module")
def prefix(image_dir: Path) -> Path:
    """Open MPI, as a site has it."""
    place = image_dir / "openmpi"
    gather_prefix(place, VERSION, *images.THIS)
    return place


@pytest.fixture(scope="module")
def daemon(prefix: Path, daemon_home: Path) -> Iterator[Daemon]:
    variables = {"OPAL_PREFIX": str(prefix), "LD_LIBRARY_PATH": str(prefix / "lib")}
    made = Daemon(
        daemon_home,
        containers={"runtime": "apptainer", "environment": ["TEST_DAEMON", *variables]},
        mpi={
            "command": str(prefix / "bin" / "mpiexec"),
            "family": "openmpi",
            "options": ["--allow-run-as-root"],
            "binds": [str(prefix)],
        },
        pilots={"slots": 4, "launcher": "process", "max_pilots": 1, "stop_grace_s": 1.0},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            yield made.up()
        finally:
            made.end()


def test_ranks_of_open_mpi_find_one_another_in_containers(
    daemon: Daemon, prefix: Path, python_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    images.packages(daemon.shared, image_dir, ranks=True)
    place = tmp_path / "boxed"
    place.mkdir()
    (place / "model.py").write_text(CODE)
    (place / "servable.toml").write_text(f'{MANIFEST}image = "{python_image}"\n')
    with daemon.client() as client:
        endpoint = daemon.deploy(client, place)
        answer = client.infer(f"{endpoint}.total", np.arange(3), timeout_s=PATIENCE_S)
        assert answer["y"].tolist() == [0, 3, 6]
        seen = client.infer(f"{endpoint}.look", {}, timeout_s=PATIENCE_S)["seen"]
    # Of the node's /tmp they see what mpiexec shares with them and the site binds, and no more.
    assert [each[:2] for each in seen] == [[2, "Open MPI"]] * 2
    assert Path("/tmp") in prefix.parents
    for _, _, there in seen:
        (session,) = set(there) - {prefix.parts[2]}
        assert session.startswith("ompi.")
