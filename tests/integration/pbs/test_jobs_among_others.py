"""Which jobs of the stand-in for PBS are a daemon's own. What becomes of pilots elsewhere too, tests/facility asks.

The tests share a daemon on the stand-in for PBS; each begins and ends with one more pilot than the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.daemon_tree import EXAMPLES, until
from tests.integration.pbs.daemon import LONG_S, DaemonOnPbs, pilots
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(600)

ECHO = "echo"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PbsServer]:
    made = PbsServer(tmp_path_factory.mktemp("pbs"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def served(server: PbsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonOnPbs]:
    """It serves ``echo`` on one pilot."""
    made = DaemonOnPbs(tmp_path_factory.mktemp("daemon"), server, scheduler={"timeout_s": 3.0})
    try:
        made.up()
        with made.client() as client:
            made.serve(client, EXAMPLES / ECHO)
        yield made
    finally:
        server.mend()
        made.end()


def polls(server: PbsServer, job: str) -> int:
    """So often the server was asked about a job."""
    return sum(job in words.split() for words in server.asked("qstat"))


def test_a_job_that_was_taken_without_a_word_is_found_by_its_name(server: PbsServer, served: DaemonOnPbs) -> None:
    with served.client() as client:
        wanted = len(pilots(client)) + 1
        server.fault("qsub", "silent")
        served.deploy(client, EXAMPLES / ECHO, replicas=wanted)
        served.wait_ready(client, ECHO, wanted)
        server.mend()
        until(lambda: {each.job for each in pilots(client)} == server.jobs().keys(), "it is ours", LONG_S)
        assert len(server.jobs()) == wanted


def test_other_peoples_jobs_and_arrays_are_none_of_ours(server: PbsServer, served: DaemonOnPbs) -> None:
    """Not even one whose name a controller that has just begun would take for that of a pilot of its own."""
    with served.client() as client:
        before = {each.job for each in pilots(client)}
        host = min(before).partition(".")[2]
        ours = server.jobs()[min(before)]["name"]
        server.add_stranger(f"900[].{host}", f"other@{host}", indices="1-3", state="B", substate=70)
        server.add_stranger(f"901.{host}", f"other@{host}", name=f"{ours}9")
        looked = len(server.asked("qselect"))
        served.kill("controller")
        until(lambda: len(server.asked("qselect")) > looked, "the next controller looks for jobs of its own", LONG_S)
        polled = polls(server, min(before))
        until(lambda: polls(server, min(before)) > polled + 4, "it has asked about those time and again", LONG_S)
        assert {each.job for each in pilots(client)} == before
        assert server.asked("qdel") == [], "nobody's job is deleted"
        served.wait_ready(client, ECHO, len(before))
