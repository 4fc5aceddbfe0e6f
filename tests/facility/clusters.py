"""The batch scheduler that a test's pilots are jobs of: a real Slurm in a box, or the stand-in for PBS.

A test that needs no Slurm itself runs on both, by the parameter :data:`ON_BOTH`. What differs between them is here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from hpcserve.wire import admin
from tests.facility.box.namespaces import Stream

ON_BOTH = pytest.mark.parametrize(
    "cluster", [pytest.param("slurm", marks=pytest.mark.facility), "pbs"], indirect=True, scope="module"
)
"""Once with pilots in a real Slurm, once with pilots in the stand-in for PBS."""

RUNNING = "RUNNING"


class Commands(Protocol):
    """The scheduler's commands as a daemon finds them: counted, and misbehaving when they are told to."""

    @property
    def variables(self) -> dict[str, str]:
        """For the environment of ``hpcserve up``."""

    def submissions(self) -> int:
        """So many jobs the daemon has tried to submit."""

    def misbehave(self, how: str) -> None:
        """From now on all of them hang, print garbage, half of their answer or nothing, or are missing."""

    def come_back(self) -> None:
        """From now on they do what the scheduler's do."""


class Cluster(Protocol):
    """A batch scheduler, and the machines that daemons and pilots run on. What a test breaks, it mends."""

    name: str
    directory: Path
    """Its own, which all nodes see."""
    base: str
    """The shipped site file on which those of daemons stand."""
    site: Mapping[str, Mapping[str, Any]]
    """The tables that they have above it."""
    nodes: str
    """What its nodes are called, as a regular expression."""
    network_of_jobs: Mapping[str, Any]
    """What a site file says in ``network`` of a daemon that runs in a job."""
    is_apart: bool
    """Whether nodes are other hosts than the login node."""
    asks: str
    """The command by which it is asked for jobs."""
    preempted: tuple[str, str]
    """The cause of a loss by preemption, as far as the scheduler tells one, and a text of the job's own output."""
    with_gpus: Mapping[str, Any]
    """What a site file says in ``pilots`` of pilots that have two GPUs on each of their nodes."""
    launcher: Mapping[str, Any]
    """What it says there of replicas that are started by other means than the agent's own, and on how many nodes."""
    preemptible: Mapping[str, Any]
    """What a site file says in ``pilots`` of pilots that may be preempted."""
    cancelled: str
    """What the job's own output says of a cancellation."""
    narrow: Mapping[str, Any]
    """What a site file says in ``pilots`` of pilots that :meth:`full` is about."""
    no_room: str
    """What the scheduler says when it refuses a job for now."""
    walltime_s: float
    """The shortest walltime in which a pilot can be seen to serve and to hand over."""
    submit: Path
    """The command by which jobs are submitted, their script on its standard input."""

    # --- commands -----------------------------------------------------------------------------------------

    def run(
        self,
        host: str,
        argv: Sequence[str],
        *,
        timeout_s: float = 30.0,
        env: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host to its end."""

    def spawn(
        self,
        host: str,
        argv: Sequence[str],
        *,
        stdout: Stream = subprocess.DEVNULL,
        stderr: Stream = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Starts a command on a host."""

    def enter_network(self, host: str) -> AbstractContextManager[None]:
        """This thread is on a host's network."""

    def seen(self, path: Path) -> Path:
        """The path by which this process sees a file of the login node."""

    @property
    def path(self) -> str:
        """The PATH of a user on the login node."""

    def commands(self, directory: Path) -> Commands:
        """The scheduler's commands for one daemon."""

    # --- jobs ---------------------------------------------------------------------------------------------

    def jobs(self) -> dict[str, str]:
        """The jobs of hpcserve that have not ended: id to state, of which one is :data:`RUNNING`."""

    def ever(self) -> list[tuple[str, str]]:
        """All jobs of hpcserve that there were, ended or not: name and id."""

    def script_of(self, job: str) -> str:
        """The script of a job that waits."""

    def exit_code(self, script: Path) -> int:
        """Submits a script, and waits for its end."""

    def began_s(self, job: str) -> float:
        """When a job that runs, or has run, began, in seconds since 1970."""

    def ended_s(self, job: str) -> float | None:
        """When a job ended, in seconds since 1970; None: it has not."""

    def cancel(self, job: str) -> None:
        """Ends a job, as its user or an administrator would."""

    def requeue(self, job: str) -> None:
        """Puts a job back into the queue, as an administrator would; it has left its nodes then."""

    def warn(self, job: str) -> None:
        """The daemon in this job is warned as before the end of its walltime."""

    def take_all_nodes(self) -> str:
        """Submits a job that has all nodes until :meth:`clear`; why others wait then, as a regular expression."""

    def suspend(self, job: str) -> None:
        """Stops a job's processes."""

    def resume(self, job: str) -> None:
        """Lets them go on."""

    def preempted_by_another(self, job: str) -> AbstractContextManager[None]:
        """In the block, another job is about to get the nodes of this one, which is put back into the queue."""

    def nothing_begins(self) -> AbstractContextManager[None]:
        """In the block no job begins."""

    def without_room_beside(self, pilot: admin.PilotView) -> AbstractContextManager[None]:
        """In the block no other pilot finds a node, even when this one has ended."""

    def clear(self) -> None:
        """Ends all jobs, and waits for nothing."""

    def wait_idle(self) -> None:
        """Waits until all nodes are idle."""

    # --- bad days -----------------------------------------------------------------------------------------

    def power_off(self, *pilots: admin.PilotView) -> None:
        """The nodes of these pilots lose their power; without any, all nodes."""

    def power_on(self) -> None:
        """All nodes have power again."""

    def away(self, how: str) -> AbstractContextManager[None]:
        """In the block the scheduler's server is ``killed`` or ``frozen``; it has saved what it knows."""

    def full(self, others: int) -> AbstractContextManager[None]:
        """In the block it takes one job more than there are ``others``, and refuses the next ones for now."""
