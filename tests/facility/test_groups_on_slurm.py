"""Replicas of four MPI ranks on two nodes of a real Slurm, through a real daemon."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import OutcomeUnknown
from tests.facility.box.cluster import Box
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, Facility, deployment, status, until
from tests.facility.tallied import LONG_S, losses
from tests.integration import images

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

PILOTS = {"nodes": 3, "slots": 2, "launcher": "srun", "max_pilots": 1}
AT_ONCE = 8
NODES = ("node1", "node2", "node3", "node4")
REQUESTS = 10_000
IN_FLIGHT = 200


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

    until(found, lambda: f"another than {other_than} is ready: {facility.told()}", LONG_S)
    return found()


class Many:
    """Requests of four samples each, many in flight; each tenth must not run twice, and writes down that it ran.

    Attributes:
        answered: How many were, each rightly.
        noted: The samples of those that are written down.
        unknown: Those of which nobody can say whether they ran.
    """

    def __init__(self, client: Client, endpoint: str, log: Path) -> None:
        self.answered = 0
        self.noted: set[int] = set()
        self.unknown: list[int] = []
        self._client = client
        self._endpoint = endpoint
        self._parameters = {"log": str(log)}
        self._sent = 0
        self._open: dict[Future[Any], int] = {}

    def run(self, up_to: int) -> None:
        """Goes on until so many are sent, of which some are still under way; at the last one until all have ended."""
        while self._sent < up_to:
            while self._sent < up_to and len(self._open) < IN_FLIGHT:
                self._send()
            if self._sent < up_to:
                self._settle()
        while self._sent == REQUESTS and self._open:
            self._settle()

    def _send(self) -> None:
        x = np.arange(4) + 4 * self._sent
        method, parameters = ("note", self._parameters) if self._sent % 10 == 0 else ("twice", {})
        future = self._client.submit(f"{self._endpoint}.{method}", x, parameters=parameters, timeout_s=LONG_S)
        self._open[future] = self._sent
        self._sent += 1

    def _settle(self) -> None:
        done, _ = wait(self._open, LONG_S, FIRST_COMPLETED)
        assert done, f"{len(self._open)} requests are not answered"
        for future in done:
            number = self._open.pop(future)
            x = np.arange(4) + 4 * number
            try:
                assert future.result(0)["y"].tolist() == (2 * x).tolist()
            except OutcomeUnknown:
                assert number % 10 == 0, "any other runs again"
                self.unknown.append(number)
                continue
            self.answered += 1
            if number % 10 == 0:
                self.noted.update(x.tolist())


def replicas_on(box: Box, node: str) -> list[str]:
    """Their process ids."""
    return box.run(node, ["pgrep", "--full", "hpcserve.replica"], check=False).stdout.split()


def started(box: Box, client: Client, endpoint: str) -> list[int]:
    """The process ids of the ranks, once each has started two others."""
    pids = client.infer(f"{endpoint}.start", np.arange(4), timeout_s=LONG_S)["pid"].tolist()
    until(lambda: len(sleepers(box)) == 8, lambda: f"all of these run: {sleepers(box)}")
    return [int(each) for each in pids]


def sleepers(box: Box) -> list[str]:
    """What ranks have started, on all nodes."""
    asked = ["pgrep", "--full", "--exact", "sleep 600"]
    return [f"{node}: {pid}" for node in NODES for pid in box.run(node, asked, check=False).stdout.split()]


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
        (pid,) = box.run(nodes[3], ["pgrep", "--oldest", "--full", "hpcserve.replica"]).stdout.split()
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


def boxed(place: Path, image: Path) -> Path:
    """The same servable, in a container."""
    shutil.copytree(SERVABLES / "spread", place)
    with (place / "servable.toml").open("a") as file:
        file.write(f'[environment]\nkind = "container"\nimage = "{image}"\n')
    return place


def test_ten_thousand_requests_of_four_ranks_in_containers_outlive_a_node(
    box: Box,
    new_facility: NewFacility,
    mpi_image: Path,
    image_dir: Path,
    keys: tuple[Path, Path, Path],
    tmp_path: Path,
) -> None:
    private, public, _ = keys
    signed = images.signed(mpi_image, tmp_path / "signed.sif", private)
    notes = tmp_path / "notes"
    notes.mkdir()
    facility = new_facility(
        pilots=PILOTS,
        containers={"runtime": "apptainer", "signature_key": str(public), "binds": [f"{notes}:{notes}:rw"]},
        mpi={"family": "mpich"},
    )
    images.packages(facility.shared, image_dir, ranks=True)
    facility.up()
    refused = facility.cli("publish", str(boxed(tmp_path / "unsigned", mpi_image)), check=False)
    assert "is not signed by the site's key" in " ".join(refused.split())
    with facility.client() as client:
        endpoint = facility.deploy(client, boxed(tmp_path / "signed", signed))
        first = replica_of(facility, client, endpoint)
        nodes = where(client, endpoint)
        assert sorted(nodes) == [0, 1, 2, 3]
        assert nodes[0] == nodes[1] != nodes[2] == nodes[3], "in blocks"
        load = Many(client, endpoint, notes / "log")
        load.run(REQUESTS // 2)
        box.power_off(nodes[3])
        try:
            load.run(REQUESTS)
            replica_of(facility, client, endpoint, other_than=first)
            assert nodes[3] not in where(client, endpoint).values()
            until(
                lambda: losses(client).get(first) == "node failed", lambda: f"Slurm says why: {losses(client)}", LONG_S
            )
        finally:
            box.power_on(nodes[3])
        assert load.answered + len(load.unknown) == REQUESTS
        assert len(load.unknown) <= IN_FLIGHT // 5, "only what was under way, and must not run twice"
        runs = Counter(int(line.split()[0]) for line in (notes / "log").read_text().splitlines())
        assert max(runs.values()) == 1, "nothing ran twice that must not"
        assert runs.keys() >= load.noted, "and nothing was answered that never ran"
        left = set(where(client, endpoint).values())
        facility.cli("undeploy", endpoint)
        for node in left:  # they are in the node's own process namespace, and none is left behind
            until(lambda node=node: not replicas_on(box, node), f"none is left on {node}")  # type: ignore[misc]


def test_nothing_of_ranks_in_containers_is_left_on_any_node(
    box: Box, new_facility: NewFacility, mpi_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    facility = new_facility(pilots=PILOTS, containers={"runtime": "apptainer"}, mpi={"family": "mpich"})
    images.packages(facility.shared, image_dir, ranks=True)
    facility.up()
    with facility.client() as client:
        endpoint = facility.deploy(client, boxed(tmp_path / "spread", mpi_image))
        first, nodes = replica_of(facility, client, endpoint), where(client, endpoint)
        pids = started(box, client, endpoint)
        box.run(nodes[3], ["kill", "-KILL", str(pids[3])])
        until(
            lambda: not sleepers(box),
            lambda: f"nothing is left of a container that was killed: {sleepers(box)}",
            LONG_S,
        )
        replica_of(facility, client, endpoint, other_than=first)

        started(box, client, endpoint)
        host = status(client).pilots[0].host
        agent = box.run(host, ["pgrep", "--full", f"^{sys.executable} -P -m hpcserve.pilot "]).stdout.split()
        box.run(host, ["kill", "-KILL", *agent])
        until(
            lambda: not sleepers(box), lambda: f"nothing is left of an agent that was killed: {sleepers(box)}", LONG_S
        )
        right(asked(client, endpoint, 1))


def test_ranks_that_do_not_find_one_another_are_never_ready(new_facility: NewFacility) -> None:
    facility = new_facility(pilots=PILOTS, mpi={"pmi": "none"}).up()
    with facility.client() as client:
        endpoint = facility.want(client, SERVABLES / "spread")
        until(lambda: "MPI has made a group of 1 process" in deployment(client, endpoint).error, "it says why", LONG_S)
        told = deployment(client, endpoint)
        assert "where 4 were asked for" in told.error
        assert "pmi in [mpi]" in told.error
        assert all(each.state != "ready" for each in told.replicas)
