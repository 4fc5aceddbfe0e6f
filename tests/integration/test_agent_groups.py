"""An agent that starts replicas of several ranks by a real mpiexec, on one node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from zmq.utils import z85

from hpcserve.cluster.processes import start_time
from hpcserve.cluster.seam import LAUNCHER_KILL_S
from hpcserve.types import ReplicaId
from hpcserve.wire.launch import NO_TOPOLOGY_FILE, ContainerRules, MpiRules, ReplicaSays, encode_line
from tests.integration.agent_rig import ROOT, FakeDaemon, Pilot, gone

MPIEXEC = Path(sys.executable).with_name("mpiexec")
Start = Callable[..., Pilot]
ASK_FOR_FILE = """
import os, socket

launcher = socket.socket(fileno=int(os.environ["PMI_FD"]))

def asked(words):
    launcher.sendall(words.encode() + b"\\n")
    return launcher.recv(4096).decode().strip()

asked("cmd=init pmi_version=1 pmi_subversion=1")
name = asked("cmd=get_my_kvsname").partition("kvsname=")[2]
print(asked(f"cmd=get kvsname={name} key=PMI_hwloc_xmlfile").partition("value=")[2])
asked("cmd=finalize")
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(tmp_path / "service.json")
    yield made
    made.close()


@pytest.fixture
def start(tmp_path: Path, daemon: FakeDaemon) -> Iterator[Start]:
    made = Pilot(tmp_path)

    def begun(**changes: Any) -> Pilot:
        made.start(mpi=MpiRules(command=str(MPIEXEC)), **changes)
        daemon.serve(lambda: daemon.reports, "the agent reports")
        return made

    yield begun
    made.end()


def descendants(pid: int) -> set[int]:
    """A process, and all that it and its own have started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {pid}.union(*(descendants(int(child)) for child in children))


@pytest.mark.parametrize("launcher", ["process", "mpiexec"])
def test_the_ranks_of_a_group_know_their_slots_and_end_in_order(
    daemon: FakeDaemon, start: Start, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    for name in ("PMI_RANK", "PMI_FD", "OMPI_COMM_WORLD_RANK", "PALS_RANKID", "OMPI_MCA_btl"):
        monkeypatch.setenv(name, "7")  # as if another launcher had started the agent
    pilot = start(launcher=launcher)
    daemon.tell(pilot.orders(pilot.group("r1", "ready", size=3)))
    daemon.wait_for("r1", "ready")
    ranks = pilot.ranks_of("r1", 3)
    assert [(rank["rank"], rank["size"], rank["told"]) for rank in ranks] == [(n, 3, str(n)) for n in range(3)]
    assert {tuple(rank["argv"][-4:]) for rank in ranks} == {("--node-slots", "4", "--ranks", "0:1:2")}
    assert [rank["of_others"] for rank in ranks] == [{"OMPI_MCA_btl": "7"}] * 3
    assert {rank["start"]["collective_grace_s"] for rank in ranks} == {7.5}, "as its manifest says"
    daemon.tell(pilot.orders())
    assert daemon.wait_for("r1", "exited").cause == "stopped as ordered (exit code 0)"
    for rank in ranks:
        gone(rank["pid"])


def test_the_secret_key_is_in_no_process_s_arguments_or_environment(daemon: FakeDaemon, start: Start) -> None:
    pilot = start()
    daemon.tell(pilot.orders(pilot.group("r1", "ready", size=2)))
    status = daemon.wait_for("r1", "ready")
    ranks = pilot.ranks_of("r1", 2)
    told = ranks[0]["start"]["secret_key"]
    secret = msgspec.convert(told, bytes)
    assert zmq.curve_public(z85.encode(secret)) == z85.encode(status.public_key)
    pids = descendants(status.pid or 0)
    assert len(pids) == 4, "mpiexec, its helper, and two ranks"
    assert {rank["pid"] for rank in ranks} < pids
    for pid in pids:
        seen = b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
        assert b"mpiexec" in seen or b"fake_ranks" in seen or b"hydra" in seen, "it could be read"
        for written in (told.encode(), secret, z85.encode(secret), secret.hex().encode()):
            assert written not in seen


def test_the_launcher_of_a_group_is_told_to_write_no_file(daemon: FakeDaemon, start: Start) -> None:
    pilot = start()
    daemon.tell(pilot.orders(pilot.group("r1", "ready", size=2)))
    status = daemon.wait_for("r1", "ready")
    seen = Path(f"/proc/{status.pid}/environ").read_bytes()
    assert all(f"{name}={value}".encode() in seen for name, value in NO_TOPOLOGY_FILE.items())


@pytest.mark.parametrize("variables", [{}, NO_TOPOLOGY_FILE], ids=["as it is", "as told"])
def test_mpiexec_writes_a_file_of_the_processors_unless_it_is_told_not_to(variables: dict[str, str]) -> None:
    """A rank that asks where it is, in PMI's own words; it would be left by an mpiexec that is killed."""
    ask = [str(MPIEXEC), "-n", "1", sys.executable, "-c", ASK_FOR_FILE]
    done = subprocess.run(ask, env={**os.environ, **variables}, capture_output=True, text=True, check=True, timeout=60)
    assert bool(done.stdout.strip()) == (not variables)


@pytest.mark.parametrize(
    ("what", "exit_code", "cause"),
    [
        ("kill 1", -9, "killed by signal 9 (SIGKILL)"),
        ("kill 0", -9, "killed by signal 9 (SIGKILL)"),
        ("exit 3", 3, "exit code 3"),
        ("abort", 5, "exit code 5"),
    ],
)
def test_one_rank_that_ends_badly_ends_all(
    daemon: FakeDaemon, start: Start, what: str, exit_code: int, cause: str
) -> None:
    pilot = start()
    daemon.tell(pilot.orders(pilot.group("r1", what, size=2)))
    daemon.wait_for("r1", "ready")
    pilot.now("r1")
    end = daemon.wait_for("r1", "exited", "failed")
    assert (end.exit_code, end.cause, end.kind) == (exit_code, cause, "crashed")
    for rank in pilot.ranks_of("r1", 2):
        gone(rank["pid"])


def test_a_group_that_does_not_end_is_killed_with_all_its_ranks(daemon: FakeDaemon, start: Start) -> None:
    pilot = start(stop_grace_s=0.2)
    daemon.tell(pilot.orders(pilot.group("r1", "deaf", size=2), pilot.group("r2", "deaf", size=2)))
    daemon.wait_for("r1", "ready")
    daemon.wait_for("r2", "ready")
    daemon.tell(pilot.orders(kill=(ReplicaId("r2"),)))
    causes = [daemon.wait_for(replica, "exited").cause.partition(" (")[0] for replica in ("r1", "r2")]
    assert causes == ["stopped as ordered", "killed as ordered"]
    for rank in pilot.ranks_of("r1", 2) + pilot.ranks_of("r2", 2):
        gone(rank["pid"])


@pytest.mark.parametrize("launcher", ["process", "mpiexec"])
@pytest.mark.parametrize("what", ["ready", "stuck"])
def test_no_rank_outlives_its_agent(daemon: FakeDaemon, start: Start, what: str, launcher: str) -> None:
    pilot = start(launcher=launcher)
    daemon.tell(pilot.orders(pilot.group("r1", what, size=2)))
    daemon.wait_for("r1", "ready")
    ranks = pilot.ranks_of("r1", 2)
    assert all(start_time(rank["pid"]) for rank in ranks)
    assert pilot.process is not None
    pilot.process.kill()
    for rank in ranks:
        gone(rank["pid"])


def test_a_pilot_with_ranks_ends_early_enough_to_have_them_killed(daemon: FakeDaemon, start: Start) -> None:
    pilot = start(walltime_s=1000.0)
    assert daemon.reports[-1].walltime_left_s > 1000.0 - LAUNCHER_KILL_S
    daemon.tell(pilot.orders(pilot.group("r1", "ready", size=2)))
    daemon.wait_for("r1", "ready")
    assert daemon.reports[-1].walltime_left_s < 1000.0 - LAUNCHER_KILL_S


def test_a_group_waits_for_room_and_says_so(daemon: FakeDaemon, start: Start) -> None:
    pilot = start(slots=3)
    first, second = pilot.group("r1", "ready", size=2), pilot.group("r2", "ready", size=2)
    third = pilot.group("r3", "ready", size=3)
    daemon.tell(pilot.orders(first, second, third))
    daemon.wait_for("r1", "ready")
    waits = daemon.wait_for("r2", "starting")
    assert waits.cause.startswith("it waits for 2 slots on one node; free slots: 1 of ")
    assert (waits.pid, waits.public_key) == (None, b"")
    daemon.tell(pilot.orders(second, kill=(ReplicaId("r1"),)))
    assert daemon.wait_for("r3", "exited").cause == "stopped as ordered before there was room for it"
    daemon.wait_for("r2", "ready")
    assert pilot.ranks_of("r2", 2)[0]["argv"][-1] == "0:1"


def test_the_slots_of_a_group_are_free_for_another_one_once_it_has_ended(daemon: FakeDaemon, start: Start) -> None:
    pilot = start(slots=2, stop_grace_s=60.0)
    daemon.tell(pilot.orders(pilot.group("r1", "deaf", size=2)))
    daemon.wait_for("r1", "ready")
    daemon.tell(pilot.orders(pilot.group("r2", "ready", size=2)))
    assert "it waits for 2 slots on one node; free slots: 0 of " in daemon.wait_for("r2", "starting").cause
    for rank in pilot.ranks_of("r1", 2):
        os.kill(rank["pid"], signal.SIGKILL)
    daemon.wait_for("r2", "ready")
    assert daemon.wait_for("r1", "exited").cause.startswith("stopped as ordered")


def test_a_rank_with_gpus_of_its_own_holds_all_their_slots(daemon: FakeDaemon, start: Start) -> None:
    pilot = start(slots=8, replicas_per_gpu=2)
    daemon.tell(pilot.orders(pilot.group("r1", "ready", size=1), pilot.group("r2", "ready", size=3, gpus=1)))
    assert daemon.wait_for("r2", "ready").slots == ((2, 3, 4, 5, 6, 7),)
    assert daemon.wait_for("r1", "ready").slots == ((0,),)
    assert pilot.ranks_of("r2", 3)[0]["argv"][-4:] == ["--node-slots", "8", "--ranks", "2,3:4,5:6,7"]


def test_a_rank_that_ends_before_mpi_knows_of_it_is_not_waited_for(daemon: FakeDaemon, start: Start) -> None:
    pilot = start()
    replica = f"{ROOT}/hpcserve/bootstrap.py hpcserve.replica"
    python = pilot.root / "ranks" / "bin" / "python"
    lacks = f'[ "$PMI_RANK" = 1 ] && exec {sys.executable} -I -S {replica}\n'
    python.write_text(python.read_text().replace("\n", f"\n{lacks}", 1))
    daemon.tell(pilot.orders(pilot.group("r1", "ready", size=2)))
    failed = daemon.wait_for("r1", "failed")
    assert " lacks pyzmq, msgspec, numpy: " in failed.cause


def again(daemon: FakeDaemon, pilot: Pilot, **changes: Any) -> None:
    """The pilot begins anew, at a site of other rules."""
    pilot.end()
    pilot.start(**changes)
    daemon.reports.clear()
    daemon.serve(lambda: daemon.reports, "the agent reports")


def test_an_mpiexec_that_is_not_there_is_told_in_words(daemon: FakeDaemon, start: Start) -> None:
    pilot = start()
    again(daemon, pilot, mpi=MpiRules(command="/no/such/mpiexec"))
    daemon.tell(pilot.orders(pilot.group("r1", "ready", size=2)))
    failed = daemon.wait_for("r1", "failed")
    assert "/no/such/mpiexec" in failed.cause
    assert failed.lasting


def test_a_container_runtime_that_is_not_there_is_told_in_words(daemon: FakeDaemon, start: Start) -> None:
    pilot = start()
    again(daemon, pilot, containers=ContainerRules(runtime="apptainer", command="/no/such/apptainer"))
    image = pilot.root / "a.sif"
    image.write_bytes(b"image")
    seen = image.stat()
    published = {
        "sha256": "0" * 64,
        "size_bytes": seen.st_size,
        "mtime_ns": seen.st_mtime_ns,
        "python": "3.11",
    }
    spec = pilot.spec("r1", "ready")
    environment = {"kind": "container", "image": str(image), "published": published}
    manifest = {**json.loads(spec.manifest), "environment": environment}
    daemon.tell(pilot.orders(msgspec.structs.replace(spec, manifest=json.dumps(manifest))))
    failed = daemon.wait_for("r1", "failed")
    assert failed.cause.startswith("the container did not start: no command /no/such/apptainer on ")
    assert failed.cause.endswith("or correct containers.command of the site file")
    assert failed.lasting


def test_of_ranks_that_all_take_themselves_for_the_first_the_log_has_no_messages(
    daemon: FakeDaemon, start: Start, tmp_path: Path
) -> None:
    pilot = start()
    script = tmp_path / "everyone"
    said = [ReplicaSays(state="failed", cause=f"MPI has made a group of {number}", lasting=True) for number in (1, 2)]
    lines = "".join(encode_line(each).decode() for each in said)
    # Of the second one the agent may see a part first.
    late = "printf '{\"state\":'; sleep 0.3; printf '\"failed\"}\\nwords\\n'"
    script.write_text(f"#!/bin/sh\ncat <<'X'\n{lines}X\n{late}\nexit 3\n")
    script.chmod(0o755)
    again(daemon, pilot, mpi=MpiRules(command=str(script)))
    daemon.tell(pilot.orders(pilot.group("r1", "ready", size=2)))
    failed = daemon.wait_for("r1", "failed")
    assert (failed.cause, failed.lasting) == ("MPI has made a group of 1", True)
    assert "state" not in failed.traceback
    assert "words" in failed.traceback
