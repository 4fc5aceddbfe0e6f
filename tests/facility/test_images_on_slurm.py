"""An image comes to all nodes of a pilot, of which one alone sees it: real Slurm, real MPI, real Apptainer."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.pilot.stageplan import STAGE_MODULE
from tests.facility.box.cluster import Box
from tests.facility.conftest import NewFacility
from tests.facility.service import PATIENCE_S, SERVABLES, Facility, deployment, status, until
from tests.facility.test_groups_on_slurm import where
from tests.integration import images

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

NODES = ("node1", "node2", "node3", "node4")
CODE = """
import os, time
import numpy as np
from hpcserve import Tensor, method

@method(inputs={"n": Tensor("int64", ())}, outputs={"node": Tensor("BYTES", ())})
def run(n):
    time.sleep(0.1)
    return os.uname().nodename
"""


@pytest.fixture
def image(box: Box, python_image: Path, tmp_path: Path) -> Iterator[Path]:
    """An image that the first node sees, on which the agent runs, and no other."""
    with seen_once(box, python_image, tmp_path) as image:
        yield image


@contextmanager
def seen_once(box: Box, original: Path, place: Path) -> Iterator[Path]:
    """A copy that the first node alone sees."""
    (place / "images").mkdir()
    image = place / "images" / "net.sif"
    shutil.copy(original, image)
    for node in NODES[1:]:
        box.run(node, ["mount", "-t", "tmpfs", "none", str(image.parent)])
    try:
        yield image
    finally:
        for node in NODES[1:]:
            box.run(node, ["umount", str(image.parent)], check=False)  # one of them may have been switched off and on


def facility_for(new_facility: NewFacility, box: Box, image_dir: Path) -> Facility:
    made = new_facility(
        containers={"runtime": "apptainer", "stage_dir": f"{box.directory}/private"},
        pilots={"nodes": 4, "slots": 1, "max_pilots": 1, "launcher": "srun"},
    )
    images.packages(made.shared, image_dir)
    return made.up()


def servable(place: Path, image: Path) -> Path:
    place.mkdir()
    (place / "model.py").write_text(CODE)
    lines = ('name = "boxed"', 'loader = "python"', 'entry = "model:run"', "[environment]", 'kind = "container"')
    (place / "servable.toml").write_text("\n".join([*lines, f"image = {json.dumps(str(image))}"]) + "\n")
    return place


def copies(box: Box, node: str) -> list[str]:
    listed = box.run(node, ["find", f"{box.directory}/private/hpcserve-0", "-type", "f", "-size", "+0"], check=False)
    return sorted(line.rpartition("/")[2] for line in listed.stdout.splitlines())


@contextmanager
def held_up(box: Box, node: str, image: Path) -> Iterator[None]:
    """Where the node would have its copy is a pipe: who looks what is there waits for somebody who writes to it."""
    place = f"{box.directory}/private/hpcserve-0"
    pipe = f"{place}/{hashlib.sha256(image.read_bytes()).hexdigest()}.sif"
    box.run(node, ["mkdir", "-m", "700", "-p", place])
    box.run(node, ["rm", "-f", pipe])  # a copy may be left: a pilot that is cancelled removes none on other nodes
    box.run(node, ["mkfifo", pipe])
    try:
        yield
    finally:
        box.run(node, ["rm", "-f", pipe])


def copying(box: Box, node: str) -> str:
    """The ids of the processes that bring images to a node."""
    return box.run(node, ["pgrep", "--full", f"{STAGE_MODULE} "], check=False).stdout


def answering(client: Client, endpoint: str, nodes: int) -> set[str]:
    """The nodes whose replicas answer, once there are so many."""
    seen: set[str] = set()

    def all_told() -> bool:
        asked = [client.submit(f"{endpoint}.run", np.int64(n)) for n in range(16)]
        seen.update(each.result(PATIENCE_S)["node"].item().decode() for each in asked)
        return len(seen) >= nodes

    until(all_told, lambda: f"replicas on {nodes} nodes answer: {seen}", PATIENCE_S)
    return seen


def test_one_node_reads_the_image_and_replicas_run_from_it_on_all(
    box: Box, new_facility: NewFacility, image: Path, image_dir: Path, tmp_path: Path
) -> None:
    facility = facility_for(new_facility, box, image_dir)
    with facility.client() as client:
        endpoint = facility.deploy(client, servable(tmp_path / "boxed", image), replicas=4)
        view = deployment(client, endpoint)
        assert [(each.phases["image"] > 0, each.cause) for each in view.replicas] == [(True, "")] * 4
        assert {node: copies(box, node) for node in NODES} == {node: [f"{view.image_sha256}.sif"] for node in NODES}
        assert answering(client, endpoint, 4) == set(NODES)
        (pilot,) = status(client).pilots
        told = (facility.logs / f"{pilot.pilot}.log").read_text()
        assert told.count(" is copied to ") == 1
        assert "each node reads images from the shared file system by itself" not in told
        assert " image " in facility.told()
    facility.end()
    assert copies(box, "node1") == [], (facility.logs / f"{pilot.pilot}.log").read_text()


def test_the_ranks_of_a_group_run_from_the_copies_of_their_nodes(
    box: Box, new_facility: NewFacility, mpi_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    servable = tmp_path / "spread"
    shutil.copytree(SERVABLES / "spread", servable)
    facility = new_facility(
        containers={"runtime": "apptainer", "stage_dir": f"{box.directory}/private"},
        pilots={"nodes": 3, "slots": 2, "max_pilots": 1, "launcher": "srun"},
        mpi={"family": "mpich"},
    )
    images.packages(facility.shared, image_dir, ranks=True)
    facility.up()
    with seen_once(box, mpi_image, tmp_path) as image, facility.client() as client:
        with (servable / "servable.toml").open("a") as file:
            file.write(f'[environment]\nkind = "container"\nimage = "{image}"\n')
        endpoint = facility.deploy(client, servable)
        assert where(client, endpoint) == {0: "node1", 1: "node1", 2: "node2", 3: "node2"}
        view = deployment(client, endpoint)
        assert [(each.phases["image"] > 0, each.cause) for each in view.replicas] == [(True, "")]
        copy = f"{view.image_sha256}.sif"
        has = [copy in copies(box, node) for node in NODES[:3]]
        assert has == [True, True, False], "where its ranks are, and nowhere else"
        facility.end()


def test_a_node_that_dies_meanwhile_is_left_out(
    box: Box, new_facility: NewFacility, image: Path, image_dir: Path, tmp_path: Path
) -> None:
    facility = facility_for(new_facility, box, image_dir)
    with held_up(box, "node4", image), facility.client() as client:
        endpoint = facility.want(client, servable(tmp_path / "boxed", image), replicas=4)
        until(lambda: copying(box, "node4"), "node4 has begun, and stands still", PATIENCE_S)
        until(lambda: "is being copied to node2" in facility.told(), "it is told what they wait for")
        box.power_off("node4")
        try:
            facility.wait_ready(client, endpoint, 3)
            assert answering(client, endpoint, 3) == set(NODES[:3])
            assert not any(each.cause for each in deployment(client, endpoint).replicas if each.state == "ready")
            (pilot,) = status(client).pilots
            assert "again" in (facility.logs / f"{pilot.pilot}.log").read_text()
            facility.cli("undeploy", endpoint)
        finally:
            box.power_on("node4")
