"""Pilot jobs that begin and are of no use: three of them, then users are told what the job itself has printed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hpcserve.errors import PoisonRequest
from tests.facility.clusters import ON_BOTH, Cluster, Commands
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, Facility, deployment, status, until

pytestmark = pytest.mark.timeout(600)

FAILED = 1
MOST_TRIES = 3
LITTLE_MIB = 400
"""More than an agent and a small replica need, and less than servable ``hungry`` takes."""
OTHER_WIRE = """\
import hpcserve
from hpcserve.wire import messages

hpcserve.__version__ = "0.0.9"
messages.WIRE_VERSIONS = (0,)
"""


@pytest.fixture(autouse=True)
def _no_jobs(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.clear()


def ended_pilot(facility: Facility, said: str) -> str:
    """What ``hpcserve logs`` has of the pilot that the message names."""
    named = said.partition("hpcserve logs ")[2].split()[0].strip(";,.")
    return facility.cli("logs", named)


@ON_BOTH
@pytest.mark.parametrize(
    ("pilots", "says"),
    [
        (
            {"setup": ["true", "no-such-command"]},
            "a setup command of site site failed with exit code 127: no-such-command",
        ),
        ({"python": "/nowhere/python"}, "/nowhere/python: No such file or directory; compute nodes need pilots.python"),
        ({"python": "/usr/bin/false"}, "exit code 1"),
    ],
)
def test_what_the_job_script_cannot_do(
    new_facility: NewFacility, commands: Commands, pilots: dict[str, Any], says: str
) -> None:
    facility = new_facility(pilots=pilots).up(commands.variables)
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=90)
    assert code == FAILED
    assert says in said
    assert says in facility.told()
    if "setup" in pilots:
        assert says in ended_pilot(facility, said)
    assert commands.submissions() == MOST_TRIES


@ON_BOTH
def test_an_agent_of_another_wire_version(new_facility: NewFacility, commands: Commands) -> None:
    facility = new_facility()
    python = facility.home / "older-python"
    (facility.home / "sitecustomize.py").write_text(OTHER_WIRE)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={facility.home} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    facility.write_site(pilots={"python": str(python)})
    facility.up(commands.variables)
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=90)
    assert code == FAILED
    for text in ("version mismatch: no common wire version", "upgrade hpcserve 0.0.9", "pilots.python"):
        assert text in said
        assert text in facility.told()
    assert "upgrade" in ended_pilot(facility, said)
    assert commands.submissions() == MOST_TRIES


@pytest.mark.facility
def test_more_memory_than_the_job_has(new_facility: NewFacility, commands: Commands) -> None:
    """Before a replica is ready, which is given up, and once one works, which is put in its place again."""
    facility = new_facility(pilots={"memory_per_node_mib": LITTLE_MIB}).up(commands.variables)
    code, said = facility.try_to_deploy(SERVABLES / "hungry", timeout_s=90)
    assert code == FAILED
    assert "out of memory" in said.lower()
    assert "pilots.memory_per_node_mib" in said
    assert commands.submissions() == MOST_TRIES
    facility.cli("undeploy", "hungry")
    code, said = facility.try_to_deploy(SERVABLES / "greedy", timeout_s=90)
    assert code == 0, said
    with facility.client() as client:
        lost_before = {each.replica for each in status(client).losses}
        (replica,) = [each.replica for each in deployment(client, "greedy").replicas]
        with pytest.raises(PoisonRequest):
            client.infer("greedy.take", np.int64(2 * LITTLE_MIB), timeout_s=60.0)

        def lost() -> set[str]:
            return {each.kind for each in status(client).losses if each.replica not in lost_before}

        assert until(lost, "the loss has its cause") == {"out of memory"}
        log = facility.cli("logs", replica)
        assert "[this replica was lost: out of memory" in log
        assert "memory limit" in log.lower()
        facility.wait_ready(client, "greedy")
        assert client.infer("greedy.take", np.int64(0))["mib"] == 0
        submitted = commands.submissions() - MOST_TRIES
        assert submitted <= MOST_TRIES, "it ran once among others, and once alone"
