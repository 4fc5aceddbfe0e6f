"""The stand-in for PBS as the cluster of a test, see :mod:`tests.facility.clusters`: all its nodes are this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hpcserve.wire import admin
from tests.facility.box.namespaces import Stream
from tests.facility.clusters import RUNNING
from tests.integration.daemon_tree import command_of, until
from tests.integration.pbs.server import COMMANDS, PbsServer

LONG_S = 60.0
NODES = 8
"""Each has two processors, and so room for one pilot."""
GPUS = 2
"""Of each node; they are but numbers."""
MPIEXEC = Path(sys.executable).with_name("mpiexec")
_STATES = {"R": RUNNING}
_FAULTS = {"killed": "down", "frozen": "hang"}


class PbsCluster:
    """The cluster of a stand-in's server, which is closed by :meth:`close`."""

    name = "pbs"
    base = "pbs"
    nodes = re.escape(socket.gethostname())
    network_of_jobs: Mapping[str, Any] = {}
    is_apart = False
    asks = "qstat"
    preempted = ("requeued", "")
    with_gpus: Mapping[str, Any] = {"gpus_per_node": GPUS}
    launcher: Mapping[str, Any] = {"launcher": "mpiexec"}
    preemptible: Mapping[str, Any] = {}
    cancelled = ""
    narrow: Mapping[str, Any] = {}
    no_room = "would exceed"
    walltime_s = 40.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = PbsServer(directory, nodes=NODES, gpus=GPUS)
        self.server.set(node_fail_requeue_s=8.0, names_gpus=True)
        # What /etc/profile.d/pbs.sh does for those that submit jobs from jobs.
        (self.server.home / ".bash_profile").write_text("export PATH=$PBS_EXEC/bin:$PATH\n")
        self.submit = self.server.commands / "qsub"
        self.site: Mapping[str, Mapping[str, Any]] = {
            "network": {"host": "127.0.0.1"},
            "mpi": {"command": str(MPIEXEC)},
            "scheduler": {"poll_s": 0.5, "poll_max_s": 2.0, "submit_per_min": 600.0, "timeout_s": 10.0},
            "pilots": {"walltime_s": 600.0, "max_pilots": 4, "cpus_per_node": 2, "warn_s": 30.0, "orphan_s": 60.0},
        }

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float = 30.0,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            env={**self._variables, **(env or {})},
            text=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=check,
        )

    def spawn(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            env=self._variables,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    @property
    def _variables(self) -> dict[str, str]:
        # By the last one the server finds what it has to end.
        return {**os.environ, "PATH": self.path, "FAKE_PBS": str(self.directory)}

    def enter_network(self, host: str) -> AbstractContextManager[None]:
        return nullcontext()

    def seen(self, path: Path) -> Path:
        return path

    @property
    def path(self) -> str:
        return self.server.path

    def commands(self, directory: Path) -> PbsCommands:
        return PbsCommands(self.server)

    # --- jobs ---------------------------------------------------------------------------------------------

    def jobs(self) -> dict[str, str]:
        living = {name: job for name, job in self.server.jobs().items() if job["state"] != "F"}
        ours = {name: job["state"] for name, job in living.items() if job["name"].startswith("hpcserve-")}
        return {name: _STATES.get(state, state) for name, state in ours.items()}

    def ever(self) -> list[tuple[str, str]]:
        jobs = self.server.jobs().items()
        return [(job["name"], name) for name, job in jobs if job["name"].startswith("hpcserve-")]

    def script_of(self, job: str) -> str:
        return str(self.server.jobs()[job]["script"])

    def exit_code(self, script: Path) -> int:
        done = self.server.run("qsub", stdin=script.read_text())
        assert done.returncode == 0, done.stderr
        return int(self.server.reaches(done.stdout.strip(), "F")["exit_status"])

    def began_s(self, job: str) -> float:
        return float(self.server.jobs()[job]["stime"])

    def ended_s(self, job: str) -> float | None:
        told = self.server.jobs()[job]
        return float(told["mtime"]) if told["state"] == "F" else None

    def cancel(self, job: str) -> None:
        done = self.server.run("qdel", job)
        assert done.returncode == 0, done.stderr

    def requeue(self, job: str) -> None:
        runs = self.server.jobs()[job]["run_count"]
        self.server.requeue(job)
        until(lambda: self._is_put_back(job, runs), "it is back in the queue", LONG_S)

    def _is_put_back(self, job: str, runs: int) -> bool:
        told = self.server.jobs()[job]
        return told["state"] == "Q" or int(told["run_count"]) > runs

    def warn(self, job: str) -> None:
        """PBS warns nobody: the daemon's own timer does."""
        mark = f"PBS_JOBID={job}".encode()
        (daemon,) = (pid for pid in self.server.processes() if "-m hpcserve.daemon " in command_of(pid))
        assert mark in Path(f"/proc/{daemon}/environ").read_bytes().split(b"\0")
        os.kill(daemon, signal.SIGUSR1)

    def take_all_nodes(self) -> str:
        self.server.submit("sleep 600", "-l", f"select={NODES}:ncpus=2")
        return "Insufficient amount of resource"

    def suspend(self, job: str) -> None:
        self.server.suspend(job)

    def resume(self, job: str) -> None:
        self.server.resume(job)

    @contextmanager
    def preempted_by_another(self, job: str) -> Iterator[None]:
        with self.nothing_begins():
            self.requeue(job)
            yield

    @contextmanager
    def nothing_begins(self) -> Iterator[None]:
        self.server.set(started=False)
        try:
            yield
        finally:
            self.server.set(started=True)

    @contextmanager
    def without_room_beside(self, pilot: admin.PilotView) -> Iterator[None]:
        assert pilot.job in self.jobs()
        others = self.server.submit("sleep 600", "-l", f"select={NODES - 1}:ncpus=2")
        self.server.submit("sleep 600", "-l", "select=1:ncpus=2")  # nor is the pilot's node free when it has ended
        yield
        self.cancel(others)

    def clear(self) -> None:
        for name, job in self.server.jobs().items():
            if job["state"] != "F":
                self.server.run("qdel", name)

    def wait_idle(self) -> None:
        until(self._is_idle, lambda: f"all nodes are idle: {self.server.jobs()}", LONG_S)

    def _is_idle(self) -> bool:
        return all(each["state"] == "F" for each in self.server.jobs().values())

    # --- bad days -----------------------------------------------------------------------------------------

    def power_off(self, *pilots: admin.PilotView) -> None:
        for number in {self.server.node_of(each.job) for each in pilots} or range(NODES):
            self.server.lose_node(number)

    def power_on(self) -> None:
        for number in range(NODES):
            self.server.restore_node(number)

    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        self.server.fault("all", _FAULTS[how])
        try:
            yield
        finally:
            self.server.mend()

    @contextmanager
    def full(self, others: int) -> Iterator[None]:
        self.server.set(queues={"workq": {"max_queued": 1 - others}})
        try:
            yield
        finally:
            self.server.set(queues={"workq": {}})

    def close(self) -> None:
        """Nothing is left that it, or a daemon of it, has started."""
        self.server.close()


class PbsCommands:
    """Those of a server."""

    def __init__(self, server: PbsServer) -> None:
        self._server = server
        self._before = len(server.asked("qsub"))

    @property
    def variables(self) -> dict[str, str]:
        return {}

    def submissions(self) -> int:
        return len(self._server.asked("qsub")) - self._before

    def misbehave(self, how: str) -> None:
        if how == "missing":
            for command in COMMANDS.iterdir():
                (self._server.commands / command.name).unlink()
        else:
            self._server.fault("all", how)

    def come_back(self) -> None:
        self._server.mend()
        for command in COMMANDS.iterdir():
            with suppress(FileExistsError):
                (self._server.commands / command.name).symlink_to(command)
