"""A servable in a container, on the nodes of a real Slurm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.facility.box.options import Options
from tests.facility.conftest import NewFacility
from tests.facility.service import PATIENCE_S, until
from tests.integration import images

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

CODE = """
import os, time
import numpy as np
from hpcserve import Tensor, method

@method(inputs={"n": Tensor("int64", ())}, outputs={"node": Tensor("BYTES", ()), "gpus": Tensor("BYTES", ())})
def run(n):
    time.sleep(0.1)
    return {"node": os.uname().nodename, "gpus": os.environ["CUDA_VISIBLE_DEVICES"]}
"""


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(nodes=2)


def test_containers_on_two_nodes_answer_and_see_their_gpus(
    new_facility: NewFacility, python_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    servable = tmp_path / "boxed"
    servable.mkdir()
    (servable / "model.py").write_text(CODE)
    (servable / "servable.toml").write_text(
        f'name = "boxed"\nloader = "python"\nentry = "model:run"\n'
        f'[environment]\nkind = "container"\nimage = "{python_image}"\n'
    )
    facility = new_facility(
        containers={"runtime": "apptainer"},
        pilots={"partition": "gpu", "gpus_per_node": 2, "max_pilots": 1, "slots": 2, "launcher": "srun", "nodes": 2},
    )
    images.packages(facility.shared, image_dir)
    facility.up()
    with facility.client() as client:
        endpoint = facility.deploy(client, servable, replicas=4)
        seen: dict[str, tuple[bytes, bytes]] = {}

        def all_told() -> bool:
            asked = [client.submit(f"{endpoint}.run", np.int64(n)) for n in range(16)]
            for each in asked:
                answer = each.result(PATIENCE_S)
                seen[answer.replica] = (answer["node"], answer["gpus"])
            return len(seen) == 4

        until(all_told, "each replica has answered")
        assert sorted(seen.values()) == [(b"node1", b"0"), (b"node1", b"1"), (b"node2", b"0"), (b"node2", b"1")]
        facility.cli("undeploy", endpoint)
    # Without the containers' own: srun's end leaves nothing of them on any node.
    seek = ["pgrep", "-f", "hpcserve.replica"]
    for node in ("node1", "node2"):
        until(
            lambda node=node: facility.cluster.run(node, seek, check=False).returncode == 1,  # type: ignore[misc]
            f"no container is left on {node}",
        )
