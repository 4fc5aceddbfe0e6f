"""The scheduler does not answer, or not sensibly: what works goes on, what is unknown is called so, nobody submits.

The tests share a daemon: its deployment grows from one to the next, and the last one takes it down.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from hpcserve import Client
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.options import Options
from tests.facility.clusters import ON_BOTH, Cluster, Commands
from tests.facility.conftest import facilities
from tests.facility.service import SERVABLES, Facility, status, until

pytestmark = pytest.mark.timeout(600)

TOO_LATE, MACHINE = 6, 8
SERVABLE = "tally"
LOST_S = 120
"""After a pause slurmctld takes nodes for lost that it has not asked for so long, unless that is longer."""
SITE = {
    "scheduler": {"poll_s": 0.5, "timeout_s": 5.0},
    # As many pilots as the box has room for.
    "pilots": {"slots": 1, "max_pilots": 8, "cpus_per_node": 2, "memory_per_node_mib": 1500},
}


@pytest.fixture(scope="module")
def box_options() -> Options:
    return Options(slurmd_timeout_s=LOST_S)


@pytest.fixture(scope="module")
def commands(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return cluster.commands(tmp_path_factory.mktemp("programs") / "commands")


@pytest.fixture(scope="module")
def facility(cluster: Cluster, commands: Commands) -> Iterator[Facility]:
    """Serves on one pilot."""
    with facilities(cluster) as new_facility:
        made = new_facility(**SITE).up(commands.variables)
        with made.client() as client:
            made.deploy(client, SERVABLES / SERVABLE)
            until(lambda: are(client, "running"), "the pilot runs")
        yield made


@contextmanager
def load(facility: Facility, client: Client) -> Iterator[Callable[[], None]]:
    """Requests one after another until the end of the block; each is answered. Gives what waits for the next one."""
    over = threading.Event()
    answered: list[int] = []
    parameters = {"log": str(facility.home / "ran"), "sleep_s": 0.01}

    def call() -> None:
        while not over.is_set():
            n = len(answered)
            told = client.infer(f"{SERVABLE}.again", np.int64(n), parameters=parameters, timeout_s=30.0)
            assert int(told["n"]) == n
            answered.append(n)

    def next_one() -> None:
        so_far = len(answered)
        until(lambda: len(answered) > so_far + 1, "requests are answered")

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(call)
        try:
            yield next_one
        finally:
            over.set()
        done.result(30.0)


@contextmanager
def without(stop: Callable[[], None], go_on: Callable[[], None]) -> Iterator[None]:
    """Whatever the block finds, the next test has what was stopped."""
    stop()
    try:
        yield
    finally:
        go_on()


def pilots(client: Client) -> dict[str, tuple[str, str]]:
    return {each.pilot: (each.job, each.state) for each in status(client).pilots}


def are(client: Client, state: str) -> bool:
    return {each.state for each in status(client).pilots} == {state}


def deploy(facility: Facility, replicas: int, timeout_s: int) -> tuple[int, str]:
    """``hpcserve deploy``: its exit code, and what it complained of in one line."""
    done = facility.command("deploy", SERVABLE, f"--replicas={replicas}", f"--timeout={timeout_s}")
    return done.returncode, " ".join(done.stderr.split())


def told(facility: Facility) -> str:
    return " ".join(facility.cli("status").split())


@ON_BOTH
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "command not found in PATH"),
        ("hang", "did not answer within 5 s"),
        ("garbage", "cannot read the answer of "),
        ("half", "cannot read the answer of "),
        ("nothing", {"slurm": "accounting may lag", "pbs": "qstat tells nothing of job"}),
    ],
)
def test_commands_that_fail_while_pilots_run(
    cluster: Cluster, facility: Facility, commands: Commands, how: str, says: str | dict[str, str]
) -> None:
    says = says if isinstance(says, str) else says[cluster.name]
    with facility.client() as client, load(facility, client) as next_one:
        before, submitted = pilots(client), commands.submissions()
        wanted = len(before) + 1
        with without(lambda: commands.misbehave(how), commands.come_back):
            until(lambda: are(client, "unknown"), "it is not known")
            until(lambda: says in told(facility), "it says why")
            code, said = deploy(facility, wanted, 3)
            assert code == TOO_LATE
            assert says in said
            next_one()
        until(lambda: pilots(client).items() >= before.items(), "all is as before")
        facility.wait_ready(client, SERVABLE, wanted)
        until(lambda: are(client, "running"), "the new one runs as well")
        assert not status(client).losses
        assert len(pilots(client)) == wanted
        assert commands.submissions() == submitted + 1


@ON_BOTH
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_the_server_is_away_under_load(cluster: Cluster, facility: Facility, commands: Commands, how: str) -> None:
    with facility.client() as client, load(facility, client) as next_one:
        before, submitted = pilots(client), commands.submissions()
        with cluster.away(how):
            until(lambda: are(client, "unknown"), "it is not known")
            assert deploy(facility, len(before), 30) == (0, ""), "there are so many already"
            code, said = deploy(facility, len(before) + 1, 3)
            assert code == TOO_LATE
            assert f"unknown: {cluster.asks}" in said
            next_one()
            assert pilots(client).keys() == before.keys()
            assert commands.submissions() == submitted
        assert deploy(facility, len(before) + 1, 60) == (0, "")
        until(lambda: are(client, "running"), "they are known again")
        assert pilots(client).items() > before.items()
        assert not status(client).losses
        assert commands.submissions() == submitted + 1


@pytest.mark.facility
def test_accounting_is_away_when_a_pilot_ends(box: Box, facility: Facility) -> None:
    with facility.client() as client:
        served = len(pilots(client))
        job = status(client).pilots[0].job
        with load(facility, client) as next_one, without(box.stop_slurmdbd, box.start_slurmdbd):
            next_one()
            box.run(LOGIN, ["scancel", job])
            until(lambda: status(client).losses, "the loss has its cause")
            assert {each.kind for each in status(client).losses} == {"cancelled"}
            until(lambda: job not in {each.job for each in status(client).pilots}, "the pilot is gone")
            facility.wait_ready(client, SERVABLE, served)
            next_one()


@ON_BOTH
def test_down_while_the_server_is_away(cluster: Cluster, facility: Facility) -> None:
    with facility.client() as client:
        held = status(client).pilots
    with cluster.away("killed"):
        done = facility.command("down")
        assert done.returncode == MACHINE
        said = " ".join(done.stderr.split())
        assert "hpcserve up, then hpcserve down" in said
        for each in held:
            assert f"{each.pilot}, job {each.job}, may go on" in said
    facility.up()
    facility.cli("down")
    until(lambda: not facility.jobs(), "no job is left")
