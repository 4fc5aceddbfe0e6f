"""An agent in a real Slurm job, on several nodes; the daemon is the test's own, on the login node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hpcserve.types import ReplicaId
from hpcserve.wire.agents import ReplicaStatus
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN, PROJECT, address_of
from tests.integration.agent_rig import FakeDaemon, Pilot

pytestmark = pytest.mark.facility

WARN_S = 50
MEMORY_MIB = 300
NOTICED_S = 60  # srun waits for slurmctld to give the node up, and a while longer


class SlurmPilot(Pilot):
    """A pilot job in the box."""

    def __init__(self, root: Path, box: Box) -> None:
        super().__init__(root)
        self.box = box
        self.job = ""
        self.enrolment = msgspec.structs.replace(self.enrolment, launcher="srun", stop_grace_s=3.0)

    def submit(self, *options: str) -> None:
        for restarts in (0, 1):
            self.enrol(restarts)
        script = self.root / "job.sh"
        script.write_text(
            "#!/bin/sh\n"
            f"exec {sys.executable} -m hpcserve.pilot --record {self.root}/service.json"
            f" --enrolment {self.root}/enrolment --restart ${{SLURM_RESTART_COUNT:-0}} --warn-s {WARN_S}"
            ' --nodes "$(scontrol show hostnames | paste -sd,)"\n'
        )
        log = [f"--output={self.root}/agent.log", "--open-mode=append"]
        size = ["--no-kill", f"--mem={MEMORY_MIB}", f"--signal=B:USR1@{WARN_S}"]
        argv = ["sbatch", "--parsable", *log, *size, *options, str(script)]
        self.job = self.box.run(LOGIN, argv, env={"PYTHONPATH": str(PROJECT)}).stdout.strip()

    def end(self) -> None:
        self.box.run(LOGIN, ["scancel", self.job])
        self.box.wait_idle(60)


@pytest.fixture
def daemon(box: Box, tmp_path: Path) -> Iterator[FakeDaemon]:
    with box.enter_network():
        made = FakeDaemon(tmp_path / "service.json", address_of(LOGIN))
        yield made
        made.close()


@pytest.fixture
def pilot(box: Box, tmp_path: Path) -> Iterator[SlurmPilot]:
    made = SlurmPilot(tmp_path, box)
    yield made
    made.end()


def running(daemon: FakeDaemon, pilot: SlurmPilot, *whats: str) -> list[ReplicaStatus]:
    """The statuses of replicas r0, r1, … when all are ready."""
    daemon.serve(lambda: daemon.reports, "the agent reports")
    specs = [pilot.spec(f"r{number}", what) for number, what in enumerate(whats)]
    daemon.tell(pilot.orders(*specs))
    return [daemon.wait_for(spec.replica, "ready") for spec in specs]


def replicas_on(box: Box, node: str) -> int:
    return box.run(node, ["ps", "-e", "-o", "args="]).stdout.count("fake_replica.py")


def ranks_on(box: Box, node: str) -> int:
    return box.run(node, ["ps", "-e", "-o", "args="]).stdout.count("fake_ranks.py")


def test_replicas_are_spread_over_the_nodes_and_end_as_asked(box: Box, daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.submit("--nodes=2", "--nodelist=node1,node2")
    ready = running(daemon, pilot, "ready", "ready", "deaf", "deaf")
    assert [status.host for status in ready] == ["node1", "node2", "node1", "node2"]
    assert daemon.reports[-1].slots == 2 * pilot.enrolment.slots
    daemon.tell(pilot.orders(*(pilot.spec(f"r{n}", "ready") for n in range(4)), pilot.spec("r4", "crash 5")))
    crashed = daemon.wait_for("r4", "exited")
    assert (crashed.kind, crashed.exit_code, crashed.host) == ("crashed", 5, "node1")
    assert "to stderr" in crashed.evidence
    assert "replica r1 started" in (pilot.logs / "r1.log").read_text()
    daemon.tell(pilot.orders(pilot.spec("r0", "ready"), kill=(ReplicaId("r3"),)))
    stopped, killed = daemon.wait_for("r1", "exited"), daemon.wait_for("r3", "exited")
    assert (stopped.kind, killed.kind) == ("", "")
    assert stopped.cause.startswith("stopped as ordered (exit code")
    assert killed.cause == "killed as ordered (killed by signal 9 (SIGKILL))"
    assert daemon.wait_for("r2", "exited").cause == "stopped as ordered (killed by signal 9 (SIGKILL))"
    daemon.serve(lambda: replicas_on(box, "node2") == 0, "nothing is left on node2")
    assert replicas_on(box, "node1") > 0


def test_nothing_is_left_on_a_node_that_was_taken_for_lost(box: Box, daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.submit("--nodes=2", "--nodelist=node1,node2")
    running(daemon, pilot, "ready", "deaf")
    assert replicas_on(box, "node2") > 0
    orders = pilot.orders(pilot.spec("r0", "ready"), pilot.spec("r1", "deaf"))
    daemon.tell(msgspec.structs.replace(orders, lost_nodes=("node2",)))
    lost = daemon.wait_for("r1", "exited")
    assert (lost.kind, lost.host) == ("node failed", "node2")
    daemon.serve(lambda: replicas_on(box, "node2") == 0, "nothing is left on node2")
    daemon.wait_for("r0", "ready")


def test_when_a_node_loses_its_power_the_others_go_on(box: Box, daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.submit("--nodes=3", "--nodelist=node1,node3,node4")
    running(daemon, pilot, "ready", "ready", "ready")
    box.power_off("node4")
    try:
        box.power_off("node3")
        told = msgspec.structs.replace(
            pilot.orders(*(pilot.spec(name, "ready") for name in ("r0", "r2", "r3"))), lost_nodes=("node3",)
        )
        daemon.tell(told)  # the daemon has noticed one of them earlier than srun does
        by_daemon = daemon.wait_for("r1", "exited")
        assert (by_daemon.kind, by_daemon.host) == ("node failed", "node3")
        assert daemon.reports[-1].slots == 2 * pilot.enrolment.slots
        by_srun = daemon.wait_for("r2", "exited", within_s=NOTICED_S)
        assert (by_srun.kind, by_srun.cause, by_srun.host) == ("node failed", "its node failed", "node4")
        assert by_srun.evidence == "srun: error: Node failure on node4"
        assert "node4" in daemon.reports[-1].lost_nodes
        assert daemon.reports[-1].slots == pilot.enrolment.slots
        orders = pilot.orders(pilot.spec("r0", "ready"), pilot.spec("r9", "ready"))
        daemon.tell(msgspec.structs.replace(orders, lost_nodes=("node3",)))
        assert daemon.wait_for("r9", "ready").host == "node1"
        assert daemon.wait_for("r0", "ready").host == "node1"
    finally:
        for node in ("node3", "node4"):
            box.power_on(node)


def test_a_killed_agent_leaves_nothing_on_any_node(box: Box, daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.submit("--nodes=2", "--nodelist=node1,node2")
    running(daemon, pilot, "stubborn", "stubborn")
    box.run("node1", ["kill", "-KILL", str(daemon.reports[-1].pid)])
    daemon.serve(lambda: replicas_on(box, "node1") + replicas_on(box, "node2") == 0, "all replicas are gone")


def test_slurm_s_warning_arrives(daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.enrolment = msgspec.structs.replace(pilot.enrolment, walltime_s=3600.0)  # as the agent thinks
    pilot.submit("--nodes=1", "--time=1")
    running(daemon, pilot, "ready")
    daemon.serve(lambda: daemon.reports[-1].walltime_left_s <= WARN_S, "the warning", within_s=60)
    assert daemon.reports[-1].leaving == ""


def test_too_much_memory_costs_one_replica(daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.submit("--nodes=2")
    running(daemon, pilot, "ready", f"eat {3 * MEMORY_MIB}")
    lost = daemon.wait_for("r1", "exited")
    assert (lost.kind, lost.exit_code) == ("out of memory", -9)
    assert "exceeded memory limit" in lost.evidence
    daemon.wait_for("r0", "ready")
    assert daemon.reports[-1].leaving == ""


def test_a_requeued_job_enrols_as_its_next_incarnation(box: Box, daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.submit("--nodes=1", "--requeue")
    running(daemon, pilot, "ready")
    box.run(LOGIN, ["scontrol", "requeue", pilot.job])
    daemon.serve(lambda: len(daemon.enrols) == 2, "the next incarnation enrols", within_s=60)
    daemon.serve(lambda: not (pilot.root / "enrolment.1.json").read_bytes(), "its file is used up")


def test_a_cancelled_job_s_replicas_are_cancelled(box: Box, daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.submit("--nodes=2")
    running(daemon, pilot, "ready", "ready")
    box.run(LOGIN, ["scancel", pilot.job])
    for replica in ("r0", "r1"):
        assert daemon.wait_for(replica, "exited").kind == "cancelled"
    assert daemon.reports[-1].leaving == "the agent got SIGTERM: the job was ended from outside"


def test_the_ranks_of_a_group_are_in_blocks_and_end_together(box: Box, daemon: FakeDaemon, pilot: SlurmPilot) -> None:
    pilot.enrolment = msgspec.structs.replace(pilot.enrolment, slots=5)
    pilot.submit("--nodes=2", "--nodelist=node1,node2")
    running(daemon, pilot, "ready")
    first = pilot.group("g1", "ready", size=4, nodes=2)
    daemon.tell(pilot.orders(pilot.spec("r0", "ready"), first, pilot.group("g2", "kill 3", size=4, nodes=2)))
    assert daemon.wait_for("g1", "ready").host == "node1"
    ranks = pilot.ranks_of("g1", 4)
    assert [(rank["rank"], rank["size"], rank["node"]) for rank in ranks] == [
        *((0, 4, "node1"), (1, 4, "node1"), (2, 4, "node2"), (3, 4, "node2"))
    ]
    assert ranks[3]["argv"][-4:] == ["--node-slots", "5", "--ranks", "1:2:0:1"]
    daemon.wait_for("g2", "ready")
    pilot.now("g2")
    died = daemon.wait_for("g2", "exited")
    assert (died.kind, died.cause) == ("crashed", "killed by signal 9 (SIGKILL)")
    assert "srun: error: node2: task 3: Killed" in died.evidence
    daemon.tell(pilot.orders(pilot.spec("r0", "ready")))
    assert daemon.wait_for("g1", "exited").cause == "stopped as ordered (exit code 0)"
    assert ranks_on(box, "node1") + ranks_on(box, "node2") == 0


def test_a_lost_node_ends_a_group_and_the_next_one_goes_elsewhere(
    box: Box, daemon: FakeDaemon, pilot: SlurmPilot
) -> None:
    pilot.submit("--nodes=3", "--nodelist=node1,node2,node3")
    daemon.serve(lambda: daemon.reports, "the agent reports")
    daemon.tell(pilot.orders(pilot.group("g1", "ready", size=4, nodes=2)))
    daemon.wait_for("g1", "ready")
    box.power_off("node2")
    try:
        specs = (pilot.group("g1", "ready", size=4, nodes=2), pilot.group("g2", "ready", size=4, nodes=2))
        daemon.tell(pilot.orders(*specs, lost_nodes=("node2",)))
        lost = daemon.wait_for("g1", "exited")
        assert (lost.kind, lost.host) == ("node failed", "node1")
        assert lost.cause.startswith("its node node2 failed")
        daemon.wait_for("g2", "ready")
        assert [rank["node"] for rank in pilot.ranks_of("g2", 4)] == ["node1", "node1", "node3", "node3"]
    finally:
        box.power_on("node2")
