"""A real Slurm for each file of tests; a file says by a fixture ``box_options`` of its own if it wants another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.facility.adapter import TRANSPORTS, Service, served
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.machine import lacks, must_hold_one
from tests.facility.box.options import Options
from tests.facility.clusters import Cluster, Commands
from tests.facility.pbs_cluster import PbsCluster
from tests.facility.service import Facility
from tests.facility.slurm_cluster import SlurmCluster

NewFacility = Callable[..., Facility]


@pytest.fixture(scope="session")
def able_machine() -> None:
    """Skips where there can be no box; where there must be one, that is an error."""
    why = lacks()
    if why and must_hold_one():
        pytest.fail(f"no real Slurm for the facility tests: {why}; tests/system-packages installs what is missing")
    if why:
        pytest.skip(f"no real Slurm on this machine: {why}")


@pytest.fixture(scope="module")
def box_options() -> Options:
    """Of the file's box."""
    return Options()


@pytest.fixture(scope="module")
def box(able_machine: None, box_options: Options) -> Iterator[Box]:  # noqa: ARG001 (asked first)
    """The file's box; what a test breaks, it mends."""
    with Box(box_options) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The file's box, unless :data:`tests.facility.clusters.ON_BOTH` asks for the stand-in for PBS."""
    if getattr(request, "param", "slurm") == "slurm":
        yield SlurmCluster(request.getfixturevalue("box"))
        return
    made = PbsCluster(tmp_path_factory.mktemp("pbs"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def all_nodes(cluster: Cluster) -> Iterator[None]:
    """After a test no job is left, and all nodes are idle; what it switched off, it has switched on."""
    yield
    cluster.clear()
    cluster.wait_idle()


@contextmanager
def facilities(cluster: Cluster) -> Iterator[NewFacility]:
    """Makes daemons on the cluster that are not started yet; all of them are ended after the block."""
    made: list[Facility] = []

    def make(*, sized: str = "", **overrides: Any) -> Facility:
        number = len(list((cluster.directory / "homes").glob("*")))
        made.append(Facility(cluster, f"{number}", sized=sized, **overrides))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def new_facility(cluster: Cluster) -> Iterator[NewFacility]:
    """Makes daemons of the test's own; see :func:`facilities`."""
    with facilities(cluster) as make:
        yield make


@pytest.fixture(params=sorted(TRANSPORTS))
def service(request: pytest.FixtureRequest, box: Box, tmp_path: Path) -> Iterator[Service]:
    """The adapter over each transport in turn; no job of it outlives the test."""
    with served(box, tmp_path, request.param) as made:
        yield made
        box.run(LOGIN, ["scancel", "--user=root"])
        box.wait_idle(60)


@pytest.fixture
def commands(cluster: Cluster, tmp_path: Path) -> Commands:
    """The scheduler's, for one daemon."""
    return cluster.commands(tmp_path / "commands")
