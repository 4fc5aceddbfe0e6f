"""Replicas of four MPI ranks on two nodes of a real Slurm, through a real daemon."""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import Client
from tests.facility.box.cluster import Box
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, Facility, deployment, until
from tests.facility.tallied import LONG_S, losses
from tests.integration import images

pytestmark = [pytest.mark.facility, pytest.mark.timeout(300), pytest.mark.usefixtures("all_nodes")]

# UCX, which the wheel of MPICH uses, writes down all ways to a rank in an address of some 1000 characters, of more in a
# container. Of one beyond 1024 Slurm's pmi2 (22.05) makes nonsense, and the ranks do not find one another.
FEW_WAYS = "export UCX_TLS=tcp,self"
PILOTS = {"nodes": 3, "slots": 2, "launcher": "srun", "max_pilots": 1, "setup": [FEW_WAYS]}
AT_ONCE = 8


def asked(client: Client, endpoint: str, count: int) -> list[Future[Any]]:
    """So many calls of eight samples each."""
    return [
        client.submit(f"{endpoint}.twice", np.arange(AT_ONCE) + AT_ONCE * n, timeout_s=LONG_S) for n in range(count)
    ]


def right(futures: list[Future[Any]]) -> None:
    for n, future in enumerate(futures):
        assert (future.result(LONG_S)["y"] == 2 * (np.arange(AT_ONCE) + AT_ONCE * n)).all()


def where(client: Client, endpoint: str) -> dict[int, str]:
    """The node of each rank."""
    answer = client.submit(f"{endpoint}.twice", np.arange(AT_ONCE), timeout_s=LONG_S).result(LONG_S)
    return {int(rank): node.decode() for rank, node in zip(answer["rank"], answer["node"], strict=True)}


def replica_of(facility: Facility, client: Client, endpoint: str, *, other_than: str = "") -> str:
    """The one that is ready."""

    def found() -> str:
        ready = [each.replica for each in deployment(client, endpoint).replicas if each.state == "ready"]
        return next((each for each in ready if each != other_than), "")

    until(found, f"another than {other_than} is ready: {facility.told()}", LONG_S)
    return found()


def replicas_on(box: Box, node: str) -> list[str]:
    """Their process ids."""
    return box.run(node, ["pgrep", "--full", "hpcserve.replica"], check=False).stdout.split()


def test_four_ranks_on_two_nodes_lose_a_rank_and_then_a_node(box: Box, new_facility: NewFacility) -> None:
    facility = new_facility(pilots=PILOTS).up()
    with facility.client() as client:
        endpoint = facility.deploy(client, SERVABLES / "spread")
        first = replica_of(facility, client, endpoint)
        nodes = where(client, endpoint)
        assert sorted(nodes) == [0, 1, 2, 3]
        assert nodes[0] == nodes[1] != nodes[2] == nodes[3], "in blocks"

        futures = asked(client, endpoint, 200)
        until(lambda: sum(future.done() for future in futures) > 20, "requests are answered")
        (pid,) = box.run(nodes[3], ["pgrep", "--newest", "--full", "hpcserve.replica"]).stdout.split()
        box.run(nodes[3], ["kill", "-KILL", pid])
        second = replica_of(facility, client, endpoint, other_than=first)
        right(futures)
        assert losses(client)[first] == "crashed"

        lost = where(client, endpoint)[3]
        futures = asked(client, endpoint, 200)
        until(lambda: sum(future.done() for future in futures) > 20, "requests are answered")
        box.power_off(lost)
        try:
            replica_of(facility, client, endpoint, other_than=second)
            right(futures)
            assert lost not in where(client, endpoint).values()
            assert losses(client)[second] == "node failed"
        finally:
            box.power_on(lost)


def test_four_ranks_in_containers_lose_a_node(
    box: Box, new_facility: NewFacility, mpi_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    servable = tmp_path / "spread"
    shutil.copytree(SERVABLES / "spread", servable)
    with (servable / "servable.toml").open("a") as file:
        file.write(f'[environment]\nkind = "container"\nimage = "{mpi_image}"\n')
    facility = new_facility(pilots=PILOTS, containers={"runtime": "apptainer"}, mpi={"family": "mpich"})
    images.packages(facility.shared, image_dir, ranks=True)
    facility.up()
    with facility.client() as client:
        endpoint = facility.deploy(client, servable)
        first = replica_of(facility, client, endpoint)
        nodes = where(client, endpoint)
        assert sorted(nodes) == [0, 1, 2, 3]
        futures = asked(client, endpoint, 200)
        until(lambda: sum(future.done() for future in futures) > 20, "requests are answered")
        box.power_off(nodes[3])
        try:
            replica_of(facility, client, endpoint, other_than=first)
            right(futures)
            assert losses(client)[first] == "node failed"
        finally:
            box.power_on(nodes[3])
        left = set(where(client, endpoint).values())
        facility.cli("undeploy", endpoint)
        for node in left:  # they are in the node's own process namespace, and none is left behind
            until(lambda node=node: not replicas_on(box, node), f"none is left on {node}")  # type: ignore[misc]


def test_ranks_that_do_not_find_one_another_are_never_ready(new_facility: NewFacility) -> None:
    facility = new_facility(pilots=PILOTS, mpi={"pmi": "none"}).up()
    with facility.client() as client:
        endpoint = facility.want(client, SERVABLES / "spread")
        until(lambda: "MPI has made a group of 1 process" in deployment(client, endpoint).error, "it says why", LONG_S)
        told = deployment(client, endpoint)
        assert "where 4 were asked for" in told.error
        assert "pmi in [mpi]" in told.error
        assert all(each.state != "ready" for each in told.replicas)
