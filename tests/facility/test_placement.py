"""The daemon runs in a job of its own: users find it, a signal leaves its pilots to the next one, ``down`` ends all."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.facility.box.files import LOGIN
from tests.facility.clusters import ON_BOTH, Cluster
from tests.facility.conftest import NewFacility
from tests.facility.service import SERVABLES, Facility, status, until

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("all_nodes")]

WITHIN_S = 60.0
SMALL = {"placement": "job", "walltime_s": 600.0, "cpus_per_node": 1, "memory_per_node_mib": 1500}


def job_of(said: str) -> str:
    """The daemon's job, as ``up`` says it."""
    found = re.search(r"serves site site on \S+ \(pid \d+\), in job (\d\S*)", said)
    assert found, said
    return found[1]


def answers(facility: Facility) -> tuple[str, set[str]]:
    """The host of the daemon that a request was answered by, and its pilots."""
    until((facility.shared / "service.json").exists, lambda: f"a daemon is there; {facility.jobs()}", WITHIN_S)
    with facility.client() as client:
        facility.wait_ready(client, "tally")
        log = {"log": str(facility.home / "log")}
        assert client.infer("tally.again", np.int64(3), parameters=log, timeout_s=WITHIN_S)["n"] == 3
        now = status(client)
    return now.host, {each.pilot for each in now.pilots}


@ON_BOTH
def test_a_daemon_in_a_job_serves_hands_over_and_is_taken_over(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(daemon=SMALL, network=cluster.network_of_jobs)
    said = facility.cli("up", "--detach")
    first = job_of(said)
    assert f"the daemon of site site is job {first}" in said
    facility.cli("publish", str(SERVABLES / "tally"))
    facility.cli("deploy", "tally", "--timeout=60")
    host, pilots = answers(facility)
    assert re.fullmatch(cluster.nodes, host)
    assert "which is there already\n" in facility.cli("up", "--detach")
    assert re.search(
        rf"^ok +job: {re.escape(first)} runs on {host}$",
        facility.cli("doctor", "--pilot", check=cluster.is_apart),
        re.MULTILINE,
    )

    cluster.warn(first)
    until(lambda: first not in facility.jobs(), lambda: f"job {first} ends: {facility.jobs()}", WITHIN_S)
    assert answers(facility)[1] == pilots, "the next daemon has taken them over"
    second = job_of(facility.cli("up", "--detach"))
    assert second != first

    cluster.cancel(second)
    until(lambda: second not in facility.jobs(), lambda: f"job {second} ends: {facility.jobs()}", WITHIN_S)
    assert facility.jobs(), "its pilot goes on"
    third = job_of(facility.cli("up", "--detach"))
    assert third not in (first, second)
    assert answers(facility)[1] == pilots

    facility.cli("down")
    until(lambda: not facility.jobs(), lambda: f"no job is left: {facility.jobs()}", WITHIN_S)


@contextlib.contextmanager
def up_in_the_foreground(facility: Facility) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """``hpcserve up`` without ``--detach``, and the file with what it says."""
    said = facility.home / "up.said"
    variables = [f"{name}={value}" for name, value in facility.variables.items()]
    command = ["env", *variables, sys.executable, "-m", "hpcserve.cli.main", "up"]
    with said.open("w") as output:
        process = facility.cluster.spawn(LOGIN, command, stdout=output.fileno(), stderr=output.fileno())
    try:
        yield process, said
    finally:
        process.kill()
        process.wait()


@ON_BOTH
def test_a_daemon_that_waits_in_the_queue_says_why_until_it_is_taken_back(
    cluster: Cluster, new_facility: NewFacility
) -> None:
    why = cluster.take_all_nodes()
    facility = new_facility(daemon=SMALL, network=cluster.network_of_jobs)
    with up_in_the_foreground(facility) as (up, said):
        until(lambda: re.search(rf"job \d\S* is queued: .*({why})", said.read_text()), "it waits", WITHIN_S)
        assert re.search(
            r"record: no daemon can be called yet; wait for its job, \d\S* is queued",
            facility.cli("doctor", check=cluster.is_apart),
        )
        assert "of the daemon, which waited in the queue, was cancelled" in facility.cli("down")
        assert up.wait(WITHIN_S) == 1
        assert "of the daemon ended before it was ready: " in said.read_text()
    assert facility.jobs() == {}
    with up_in_the_foreground(facility) as (up, said):
        until(lambda: "is queued" in said.read_text(), "it waits", WITHIN_S)
        up.send_signal(signal.SIGINT)
        assert up.wait(WITHIN_S) == 130
    until(lambda: not facility.jobs(), "nothing of it is left in the queue", WITHIN_S)


@ON_BOTH
def test_ctrl_c_takes_a_daemon_in_a_job_down(cluster: Cluster, new_facility: NewFacility) -> None:
    facility = new_facility(daemon=SMALL, network=cluster.network_of_jobs)
    with up_in_the_foreground(facility) as (up, said):
        until(lambda: "take it down: Ctrl-C here" in said.read_text(), said.read_text(), WITHIN_S)
        up.send_signal(signal.SIGINT)
        assert up.wait(WITHIN_S) == 0
    assert facility.jobs() == {}
    assert not (facility.shared / "service.json").exists()


def everything_but(command: Path, cluster: Cluster, directory: Path) -> Path:
    """A directory with all that a user's PATH on the login node leads to, but for one command."""
    directory.mkdir()
    for entry in (each for place in cluster.path.split(":") if Path(place).is_dir() for each in Path(place).iterdir()):
        link = directory / entry.name
        if entry.name != command.name and not link.is_symlink():
            link.symlink_to(entry)
    return directory


@ON_BOTH
def test_a_daemon_in_a_job_that_does_not_find_the_submit_command_says_so(
    cluster: Cluster, new_facility: NewFacility
) -> None:
    path = everything_but(cluster.submit, cluster, cluster.directory / "without")
    setup = {"setup": [f"export PATH={path}"]}
    facility = new_facility(daemon=SMALL, network=cluster.network_of_jobs, pilots=setup)
    facility.cli("up", "--detach")
    missing = f"{cluster.submit.name}: command not found in PATH ({path}); start the daemon where"
    code, said = facility.try_to_deploy(SERVABLES / "tally", timeout_s=5)
    assert code
    assert missing in said
    assert missing in facility.told()
    assert len(facility.jobs()) == 1, "only the daemon's own"


@pytest.mark.facility
def test_a_daemon_that_cannot_start_in_its_job_says_why(new_facility: NewFacility) -> None:
    facility = new_facility(daemon=SMALL, network={"host": "eth0"})
    told = facility.cli("site", "check", "--timeout=60")  # this host has no such interface
    assert re.search(r"^ok +interface: on node\d a daemon could listen at 10\.", told, re.MULTILINE), told
    facility = new_facility(daemon=SMALL, network={"host": "hsn0"})
    checked = facility.command("site", "check", "--timeout=60")
    assert checked.returncode == 1
    assert re.search(r"^failed +interface: on node\d, .*'hsn0' is no interface", checked.stdout, re.MULTILINE), checked
    done = facility.command("up", "--detach")
    assert done.returncode == 1
    assert re.search(r"job \d+ of the daemon ended before it was ready: .*'hsn0' is no interface", done.stderr)
