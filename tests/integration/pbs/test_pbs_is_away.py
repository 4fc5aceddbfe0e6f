"""PBS does not answer, or not sensibly: what works goes on, what is not known is called so, nothing is submitted.

The tests share a daemon on the stand-in for PBS; each begins and ends with one more pilot than the one before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.integration.daemon_tree import EXAMPLES, deployment, status, until
from tests.integration.pbs.daemon import LONG_S, DaemonOnPbs, pilots
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(240)

ONE = np.ones(1, np.float32)
ECHO = "echo"
LEFT_ALONE_S = 3.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PbsServer]:
    made = PbsServer(tmp_path_factory.mktemp("pbs"), nodes=8)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def served(server: PbsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonOnPbs]:
    """It serves ``echo`` on one pilot."""
    site: dict[str, dict[str, Any]] = {
        "scheduler": {"timeout_s": 3.0, "poll_max_s": LEFT_ALONE_S},
        "pilots": {"max_pilots": 8},
    }
    made = DaemonOnPbs(tmp_path_factory.mktemp("daemon"), server, **site)
    try:
        made.up()
        with made.client() as client:
            made.serve(client, EXAMPLES / ECHO)
        yield made
    finally:
        server.mend()
        made.end()


@pytest.fixture(autouse=True)
def _mended(server: PbsServer) -> Iterator[None]:
    """Whatever a test finds, the next one has a server."""
    yield
    server.set(faults={}, queues={"workq": {}})


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("down", "does not reach the PBS server"),
        ("hang", "did not answer within 3 s"),
        ("garbage", "qstat"),
        ("half", "qstat"),
    ],
)
def test_an_answer_that_is_none_makes_nothing_gone(
    server: PbsServer, served: DaemonOnPbs, does: str, says: str
) -> None:
    with served.client() as client:
        until(lambda: {each.state for each in pilots(client)} == {"running"}, "PBS has told of them", LONG_S)
        before = {each.pilot: each.job for each in pilots(client)}
        submitted = len(server.asked("qsub"))
        server.fault("all", does)
        until(lambda: {each.state for each in pilots(client)} == {"unknown"}, "nothing is known", LONG_S)
        assert all(says in each.waits_for for each in pilots(client)), pilots(client)
        served.deploy(client, EXAMPLES / ECHO, replicas=len(before) + 1)
        assert client.infer(f"{ECHO}.echo", ONE, timeout_s=60)["x"] == 1
        server.mend()
        served.wait_ready(client, ECHO, len(before) + 1)
        until(lambda: {each.state for each in pilots(client)} == {"running"}, "the new one runs as well", LONG_S)
        assert {each.pilot: each.job for each in pilots(client)}.items() > before.items()
        assert len(pilots(client)) == len(server.jobs()) == len(before) + 1
        assert not status(client).losses
        assert len(server.asked("qsub")) - submitted <= 2


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
    with served.client() as client:
        before = {each.job for each in pilots(client)}
        host = min(before).partition(".")[2]
        server.add_stranger(f"900[].{host}", f"other@{host}", indices="1-3", state="B", substate=70)
        server.add_stranger(f"901.{host}", f"other@{host}", name="hpcserve-of-somebody")
        asked = len(server.asked("qstat"))
        until(lambda: len(server.asked("qstat")) > asked + 2, "PBS is asked", LONG_S)
        assert {each.job for each in pilots(client)} == before
        assert server.jobs()[f"901.{host}"]["state"] == "R"


def test_a_full_queue_is_waited_for(server: PbsServer, served: DaemonOnPbs) -> None:
    with served.client() as client:
        wanted = len(pilots(client)) + 1
        server.set(queues={"workq": {"max_queued": 0}})
        served.deploy(client, EXAMPLES / ECHO, replicas=wanted)
        until(lambda: "would exceed" in deployment(client, ECHO).error, "it is told of", LONG_S)
        assert client.infer(f"{ECHO}.echo", ONE, timeout_s=60)["x"] == 1
        server.set(queues={"workq": {}})
        served.wait_ready(client, ECHO, wanted)
