"""Login nodes that share the daemon's directories: one has the daemon, the others say which, any takes over."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hpcserve import Client
from tests.facility.box.cluster import Box
from tests.facility.box.files import logins
from tests.facility.box.options import Options
from tests.facility.clusters import Cluster
from tests.facility.conftest import facilities
from tests.facility.load import Load, cut_off, twice
from tests.facility.service import PATIENCE_S, SERVABLES, Facility, status, until

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

BOX = Options(logins=3, nodes=2, disks_mib={"disk": 64})
LOGINS = logins(BOX)
ENDPOINT = "spans"
LEASE_S = 2.0
SITE: dict[str, dict[str, Any]] = {
    "network": {"host": "switch"},
    "pilots": {"slots": 1, "orphan_s": 60.0},
    "recovery": {"lease_s": LEASE_S},
}


@pytest.fixture(scope="module")
def box_options() -> Options:
    return BOX


@pytest.fixture(scope="module")
def facility(cluster: Cluster) -> Iterator[Facility]:
    """Served with a replica on each of two nodes, from one login node or the other."""
    with facilities(cluster) as make:
        made = make(sized="disk", **SITE)
        made.up()
        with made.client() as client:
            made.deploy(client, SERVABLES / ENDPOINT, replicas=2)
        yield made


@pytest.fixture
def client(facility: Facility) -> Iterator[Client]:
    """On the login node of the daemon, while it is still there."""
    with facility.client() as made:
        facility.wait_ready(made, ENDPOINT, 2)
        yield made


def others(facility: Facility) -> list[str]:
    """The login nodes without the daemon."""
    return [each for each in LOGINS if each != facility.login]


def in_words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def told_who_runs(facility: Facility, supervisor: int) -> str:
    return f"already runs on {facility.login} as pid {supervisor} (since 20"


def signal_all(facility: Facility, login: str, number: str, *pids: int) -> None:
    # The first that goes on may have killed the others before they are told to.
    facility.cluster.run(login, ["kill", f"-{number}", *map(str, pids)], check=number == "STOP")


def are_gone(facility: Facility, login: str, *pids: int) -> bool:
    """Whether none of these processes of a login node lives."""
    script = 'for pid; do grep -qs "^State:.[^ZX]" /proc/$pid/status && exit 1; done; exit 0'
    return facility.cluster.run(login, ["sh", "-c", script, "sh", *map(str, pids)], check=False).returncode == 0


def begun(facility: Facility, client: Client, *sleeps_s: float, requests: int = 24) -> Load:
    """Requests that are under way."""
    load = Load(facility, client, ENDPOINT, *sleeps_s)
    load.log.unlink(missing_ok=True)
    for _ in range(requests):
        load.send()
    until(load.log.exists, "requests are run")
    return load


def test_a_second_one_is_refused_and_told_who_runs(facility: Facility, client: Client) -> None:
    supervisor = status(client).processes["supervisor"]
    done = facility.command("up", "--detach", login=others(facility)[0])
    assert done.returncode == 7
    assert told_who_runs(facility, supervisor) in in_words(done)


def test_of_two_that_want_a_dead_ones_place_one_gets_it_and_the_other_is_told(
    facility: Facility, client: Client
) -> None:
    before = status(client)
    load = begun(facility, client, 0.05, 0.2)
    rivals = others(facility)
    facility.kill("all")
    pipe = subprocess.PIPE
    argv = facility.argv("up", "--detach")
    ups = {login: facility.cluster.spawn(login, argv, stdout=pipe, stderr=pipe) for login in rivals}
    said = {login: up.communicate(timeout=PATIENCE_S) for login, up in ups.items()}
    codes = {login: up.returncode for login, up in ups.items()}
    assert sorted(codes.values()) == [0, 7], said
    facility.login, loser = sorted(rivals, key=lambda login: codes[login])
    load.keep(0, 0.0)
    after = status(client)
    assert told_who_runs(facility, after.processes["supervisor"]) in said[loser][1].replace("\n", " ")
    assert after.host == facility.login
    assert {pilot.job for pilot in after.pilots} == {pilot.job for pilot in before.pilots}
    replicas = [{each.replica for each in told.deployments[0].replicas} for told in (before, after)]
    assert replicas[0] == replicas[1]
    assert (twice(load.log), cut_off(load.log)) == ([], set())


@pytest.mark.parametrize("stopped", ["all", "supervisor"])
def test_one_that_stood_still_and_was_succeeded_ends_at_once(facility: Facility, client: Client, stopped: str) -> None:
    old_login, old = facility.login, status(client)
    pids = old.processes
    load = begun(facility, client, 0.5 if stopped == "all" else 0.05)
    signal_all(facility, old_login, "STOP", *(pids.values() if stopped == "all" else [pids["supervisor"]]))
    facility.up(login=others(facility)[0])
    if stopped == "all":
        load.keep(0, 0.0)  # it stands still all the time, and its clients and replicas have left it
        facility.wait_ready(client, ENDPOINT, 2)
        signal_all(facility, old_login, "CONT", *pids.values())
    until(lambda: are_gone(facility, old_login, *pids.values()), "the old one ends", PATIENCE_S)
    load.keep(0, 0.0)
    facility.wait_ready(client, ENDPOINT, 2)
    assert twice(load.log) == []
    told = status(client)
    assert (told.host, told.epoch > old.epoch) == (facility.login, True)
    assert set(facility.jobs()) == {pilot.job for pilot in old.pilots}, "it has submitted and cancelled nothing"
    logs = [(facility.logs / f"daemon-{process}.log").read_text() for process in ("supervisor", "controller")]
    told_by = [words in log for words, log in zip(("its lease was taken by", "has taken the lease"), logs, strict=True)]
    assert any(told_by), "by whoever goes on first, and ends the other"


def test_while_the_shared_directory_stands_still_nobody_takes_over(
    box: Box, facility: Facility, client: Client
) -> None:
    before = status(client)
    rival = others(facility)[0]
    with box.frozen("disk"):
        began_s = time.monotonic()
        up = facility.cluster.spawn(rival, facility.argv("up", "--detach"), stderr=subprocess.PIPE)
        load = Load(facility, client, ENDPOINT, 0.05)
        load.keep(2, 3 * LEASE_S)
        assert "that it still has its lease: the file system of" in status(client).trouble
        assert up.poll() is None, "who wants the lease waits too"
        stalled_s = time.monotonic() - began_s
    _, told = up.communicate(timeout=PATIENCE_S)
    assert stalled_s > 2 * LEASE_S
    assert (up.returncode, told_who_runs(facility, before.processes["supervisor"]) in " ".join(told.split())) == (
        7,
        True,
    )
    after = status(client)
    assert (after.epoch, after.processes) == (before.epoch, before.processes)
    until(lambda: not status(client).trouble, "it looks at its lease again", PATIENCE_S)


def test_it_is_taken_down_from_another_login_node(facility: Facility, client: Client) -> None:
    assert status(client).host == facility.login
    login = others(facility)[0]
    assert f"site on {facility.login} is down" in facility.cli("down", login=login)
    assert not facility.jobs()
    assert "no daemon runs" in facility.cli("down", login=login)


def test_nodes_are_released_when_no_daemon_comes_back(facility: Facility) -> None:
    facility.write_site(**{**SITE, "pilots": {"slots": 1, "orphan_s": 4.0}})
    facility.up()
    with facility.client() as client:
        facility.wait_ready(client, ENDPOINT, 2)
        facility.kill("all")
        until(lambda: not facility.jobs(), "their agents end them", PATIENCE_S)
        facility.up(login=LOGINS[1])
        facility.wait_ready(client, ENDPOINT, 2)
        begun(facility, client, 0.05).keep(0, 0.0)
