"""A real Slurm in a box, as the cluster of a test; see :mod:`tests.facility.clusters`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from hpcserve.wire import admin
from tests.facility.box import files
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.box.namespaces import Stream
from tests.facility.box.options import TINY_QOS
from tests.facility.clusters import RUNNING
from tests.facility.commands import SlurmCommands
from tests.integration.daemon_tree import until

IDLE_S = 120.0
_OTHERS = ("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 600")


class SlurmCluster:
    """The cluster of a box."""

    name = "slurm"
    base = "facility"
    site: Mapping[str, Mapping[str, Any]] = {}
    nodes = r"node\d"
    network_of_jobs: Mapping[str, Any] = {"host": "eth0"}
    is_apart = True
    asks = "squeue"
    preempted = ("preempted", "DUE TO PREEMPTION")
    with_gpus: Mapping[str, Any] = {"partition": "gpu", "gpus_per_node": 2}
    launcher: Mapping[str, Any] = {"launcher": "srun", "nodes": 2}
    preemptible: Mapping[str, Any] = {"partition": "preempt"}
    cancelled = "CANCELLED"
    narrow: Mapping[str, Any] = {"qos": TINY_QOS}
    no_room = "QOSMaxSubmitJobPerUserLimit"
    walltime_s = 60.0

    def __init__(self, box: Box) -> None:
        self.box = box
        self.directory = box.directory
        self.submit = Path(shutil.which("sbatch") or "/usr/bin/sbatch")
        self._off: list[str] = []

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float = 30.0,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        return self.box.run(host, argv, timeout_s=timeout_s, env=env, check=check)

    def spawn(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        return self.box.spawn(host, argv, stdout=stdout, stderr=stderr)

    def enter_network(self, host: str) -> AbstractContextManager[None]:
        return self.box.enter_network(host)

    def seen(self, path: Path) -> Path:
        return self.box.seen(path)

    @property
    def path(self) -> str:
        return self.box.host(LOGIN).environment()["PATH"]

    def commands(self, directory: Path) -> SlurmCommands:
        return SlurmCommands(directory)

    # --- jobs ---------------------------------------------------------------------------------------------

    def jobs(self) -> dict[str, str]:
        lines = self._ask("squeue", "--noheader", "--me", "--format=%i %T %j").splitlines()
        found = [line.split() for line in lines]
        return {job: state for job, state, name in found if name.startswith("hpcserve-")}

    def ever(self) -> list[tuple[str, str]]:
        told = self._ask("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobName%100,JobID")
        found = [line.split("|") for line in told.splitlines() if line.startswith("hpcserve-")]
        return [(name, job) for name, job in found]

    def script_of(self, job: str) -> str:
        return self._ask("scontrol", "write", "batch_script", job, "-")

    def exit_code(self, script: Path) -> int:
        job = self._ask("sbatch", "--parsable", str(script)).strip()
        until(lambda: job not in self.jobs(), "it ends")
        until(lambda: self.ended(job)[0] in {"FAILED", "COMPLETED"}, "accounting has it")
        asked = ("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=ExitCode")
        return int(self._ask(*asked).partition(":")[0])

    def ended(self, job: str) -> tuple[str, float | None]:
        """How a job ended, as accounting says, and when."""
        asked = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=State,End"]
        told = self.box.run(LOGIN, asked, env={"SLURM_TIME_FORMAT": "%s"}).stdout.strip().splitlines()
        state, _, end = "".join(told[-1:]).partition("|")
        return state, float(end) if end.isdigit() else None

    def began_s(self, job: str) -> float:
        asked = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=Start"]
        return float(self.box.run(LOGIN, asked, env={"SLURM_TIME_FORMAT": "%s"}).stdout.split()[-1])

    def ended_s(self, job: str) -> float | None:
        return self.ended(job)[1]

    def cancel(self, job: str) -> None:
        self._ask("scancel", job)

    def requeue(self, job: str) -> None:
        self._ask("scontrol", "requeue", job)
        until(lambda: self.jobs().get(job) != RUNNING, "it is back in the queue")

    def warn(self, job: str) -> None:
        self._ask("scancel", "--batch", "--signal=USR1", job)

    def take_all_nodes(self) -> str:
        self._ask(*_OTHERS, "--nodes=4", "--exclusive")
        return "Resources|Priority"

    def suspend(self, job: str) -> None:
        self._ask("scontrol", "suspend", job)

    def resume(self, job: str) -> None:
        self._ask("scontrol", "resume", job)

    @contextmanager
    def preempted_by_another(self, job: str) -> Iterator[None]:
        """The pilot's partition has to be ``preempt``."""
        assert job in self.jobs()
        urgent = self._ask(*_OTHERS, "--partition=batch", "--nodes=4", "--exclusive").strip()
        yield
        self.cancel(urgent)

    @contextmanager
    def nothing_begins(self) -> Iterator[None]:
        self.box.partition_down("batch")
        try:
            yield
        finally:
            self.box.partition_up("batch")

    @contextmanager
    def without_room_beside(self, pilot: admin.PilotView) -> Iterator[None]:
        """The pilot has to have its node for itself."""
        other = self._ask(*_OTHERS, "--nodes=3", "--exclusive", "--time=10").strip()
        # Nor is the node of the first pilot there for a second one.
        self._ask(*_OTHERS, f"--nodelist={pilot.host}", "--exclusive", "--time=10", "--priority=TOP")
        yield
        self.cancel(other)

    def clear(self) -> None:
        self._ask("scancel", "--user=root")

    def wait_idle(self) -> None:
        self.box.wait_idle(IDLE_S)

    # --- bad days -----------------------------------------------------------------------------------------

    def power_off(self, *pilots: admin.PilotView) -> None:
        for node in [each.host for each in pilots] or files.nodes(self.box.options):
            self.box.power_off(node)
            self._off.append(node)

    def power_on(self) -> None:
        while self._off:
            self.box.power_on(self._off.pop())

    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        stop, go_on = {
            "killed": (self.box.kill_slurmctld, self.box.start_slurmctld),
            "frozen": (self.box.freeze_slurmctld, self.box.thaw_slurmctld),
        }[how]
        self.box.wait_saved(*self.jobs())
        stop()
        try:
            yield
        finally:
            go_on()

    @contextmanager
    def full(self, others: int) -> Iterator[None]:
        """The pilots' QOS has to be :data:`TINY_QOS`, which takes one job."""
        jobs = [self._ask(*_OTHERS, f"--qos={TINY_QOS}").strip() for _ in range(others)]
        yield
        for job in jobs:
            self.cancel(job)

    def _ask(self, *argv: str) -> str:
        return self.box.run(LOGIN, argv).stdout
