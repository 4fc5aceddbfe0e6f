"""An agent with several nodes, whose srun is a fake that runs everything here."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hpcserve.cluster.processes import start_time
from hpcserve.types import ReplicaId
from hpcserve.wire import exits
from tests.integration.agent_rig import ROOT, FakeDaemon, Pilot
from tests.integration.daemon_tree import PATIENCE_S, until

FAKE_SRUN = ROOT / "tests" / "fakes" / "srun"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(tmp_path / "service.json")
    yield made
    made.close()


@pytest.fixture
def pilot(tmp_path: Path, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pilot]:
    monkeypatch.setenv("FAKE_SRUN", str(tmp_path))
    made = Pilot(tmp_path)
    made.enrolment = msgspec.structs.replace(made.enrolment, launcher="srun")
    made.enrol(0)
    made.run("--nodes", "a,b,c", path=f"{FAKE_SRUN}:")
    daemon.serve(lambda: daemon.reports, "the agent reports")
    yield made
    made.end()


def running(daemon: FakeDaemon, pilot: Pilot, *whats: str) -> list[int]:
    """The pids of replicas r0, r1, … when all are ready, on nodes a, b, c, a, …"""
    specs = [pilot.spec(f"r{number}", what) for number, what in enumerate(whats)]
    daemon.tell(pilot.orders(*specs))
    ready = [daemon.wait_for(spec.replica, "ready") for spec in specs]
    assert [status.host for status in ready] == ["abc"[number % 3] for number in range(len(whats))]
    return [pilot.facts(spec.replica)["pid"] for spec in specs]


def test_a_failed_node_takes_its_own_replicas_and_no_others(daemon: FakeDaemon, pilot: Pilot) -> None:
    running(daemon, pilot, "ready", "ready", "ready")
    assert (daemon.reports[-1].slots, daemon.reports[-1].lost_nodes) == (12, ())
    (pilot.root / "b.down").touch()
    lost = daemon.wait_for("r1", "exited")
    assert (lost.kind, lost.cause, lost.evidence) == (
        "node failed",
        "its node failed",
        "srun: error: Node failure on b",
    )
    (pilot.root / "c.down").touch()
    daemon.wait_for("r2", "exited")
    assert (daemon.reports[-1].slots, daemon.reports[-1].lost_nodes) == (4, ("b", "c"))
    daemon.tell(pilot.orders(pilot.spec("r0", "ready"), pilot.spec("r9", "ready")))
    assert daemon.wait_for("r9", "ready").host == "a"
    daemon.wait_for("r0", "ready")


def test_each_replica_holds_the_lowest_free_slot_of_its_node(daemon: FakeDaemon, pilot: Pilot) -> None:
    def slot(replica: str) -> tuple[int, int]:
        *_, slots, _, slot = pilot.facts(replica)["argv"]
        return int(slot), int(slots)

    running(daemon, pilot, *["ready"] * 6)
    assert [slot(f"r{number}") for number in range(6)] == [(0, 4)] * 3 + [(1, 4)] * 3
    left = [pilot.spec(f"r{number}", "ready") for number in range(1, 6)]
    daemon.tell(pilot.orders(*left, pilot.spec("r6", "ready")))  # r0 is still ending when r6 is started
    assert daemon.wait_for("r6", "ready").host == "a"
    assert (slot("r3"), slot("r6")) == ((1, 4), (0, 4))


def test_a_node_that_takes_no_step_is_lost_too(daemon: FakeDaemon, pilot: Pilot) -> None:
    (pilot.root / "a.down").touch()
    daemon.tell(pilot.orders(pilot.spec("r0", "ready")))
    failed = daemon.wait_for("r0", "failed")
    assert (failed.kind, failed.host, daemon.reports[-1].lost_nodes) == ("node failed", "a", ("a",))


def test_a_node_that_the_daemon_gives_up_is_left_at_once(daemon: FakeDaemon, pilot: Pilot) -> None:
    *_, gone = running(daemon, pilot, "ready", "ready", "deaf")
    orders = pilot.orders(*(pilot.spec(f"r{number}", "ready") for number in range(3)))
    daemon.tell(msgspec.structs.replace(orders, lost_nodes=("c",)))
    lost = daemon.wait_for("r2", "exited")
    assert (lost.kind, lost.host, daemon.reports[-1].slots) == ("node failed", "c", 8)
    assert daemon.reports[-1].lost_nodes == (), "srun has not said so"
    assert start_time(gone) is None, "nothing is left on it that would share its GPUs with others"
    assert {status.state for status in daemon.reports[-1].replicas[:2]} == {"ready"}


def test_an_agent_without_a_node_ends(daemon: FakeDaemon, pilot: Pilot) -> None:
    daemon.tell(msgspec.structs.replace(pilot.orders(), lost_nodes=("a", "b", "c")))
    assert pilot.process is not None
    process = pilot.process
    daemon.serve(lambda: process.poll() is not None, "the agent ends")
    assert process.returncode == exits.FAILED
    assert "every node of the pilot is lost" in pilot.log()


def test_a_replica_elsewhere_ends_by_its_input_and_else_is_killed(daemon: FakeDaemon, pilot: Pilot) -> None:
    pids = running(daemon, pilot, "stubborn", "deaf", "deaf")  # SIGTERM ends none of them
    daemon.tell(pilot.orders(kill=(ReplicaId("r2"),)))
    ends = [daemon.wait_for(f"r{number}", "exited").cause for number in range(3)]
    by_kill = "(killed by signal 9 (SIGKILL))"
    assert ends == ["stopped as ordered (exit code 7)", f"stopped as ordered {by_kill}", f"killed as ordered {by_kill}"]
    assert [start_time(pid) for pid in pids] == [None] * 3


def test_one_that_is_not_ready_is_killed_and_a_sigterm_ends_all(daemon: FakeDaemon, pilot: Pilot) -> None:
    daemon.tell(pilot.orders(pilot.spec("r0", "hang"), pilot.spec("r1", "ready")))
    daemon.wait_for("r1", "ready")
    until((pilot.root / "r0.json").exists, "r0 runs")
    assert pilot.process is not None
    pilot.process.send_signal(signal.SIGTERM)
    ends = [daemon.wait_for(name, "exited") for name in ("r0", "r1")]
    assert [(end.kind, end.exit_code) for end in ends] == [("cancelled", -9), ("cancelled", 7)]
    assert pilot.process.wait(PATIENCE_S) == exits.OK


def test_several_nodes_need_a_launcher_that_reaches_them(tmp_path: Path) -> None:
    pilot = Pilot(tmp_path)
    pilot.enrol(0)
    assert pilot.run("--nodes", "a,b").wait(PATIENCE_S) == exits.FAILED
    assert "'process' starts replicas on the agent's own node alone, and this job has 2" in pilot.log()
