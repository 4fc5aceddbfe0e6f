"""A stand-in for a PBS server, for tests: where its commands are, what they tell, and how it is made to misbehave.

It answers as an OpenPBS 23.06 server did (``tests/data/openpbs-23.06``) and really runs the jobs; it is not PBS.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.fakes.pbs_stand_in import keeper, scheduling
from tests.fakes.pbs_stand_in.commands import starter
from tests.fakes.pbs_stand_in.store import Job, State, Store, new_state
from tests.integration.daemon_tree import command_of, is_alive, until

COMMANDS = Path(__file__).resolve().parents[2] / "fakes" / "pbs"


class PbsServer:
    """One server in a directory of its own. What it starts ends with :meth:`close`, or with this process.

    Args:
        place: Its directory, which is made.
        host: What its nodes and it itself call themselves: this machine's name, where the jobs do run.
        nodes: So many virtual nodes, all of them this machine.
        hosts: Names of hosts in place of this machine's, in turn. Their jobs do run here.
        ncpus: The processors of each node.
        gpus: The GPUs of each; there are none but by their numbers.
        user: Whose jobs they are, as PBS says it.
    """

    def __init__(
        self,
        place: Path,
        *,
        host: str = "",
        nodes: int = 4,
        hosts: Sequence[str] = (),
        ncpus: int = 2,
        gpus: int = 0,
        user: str = "",
    ) -> None:
        self._store = Store(place)
        host = host or socket.gethostname()
        called = hosts or [host]
        state = new_state(host, user)
        each = {"ncpus": ncpus, "ngpus": gpus, "state": "free"}
        made = [(called[n % len(called)], n // len(called)) for n in range(nodes)]
        state["nodes"] = [{"name": f"{name}[{part}]", "host": name, **each} for name, part in made]
        self._store.create(state)
        self.commands = place / "bin"
        self.commands.mkdir()
        for command in COMMANDS.iterdir():
            (self.commands / command.name).symlink_to(command)
        self._alive = self._store.alive.open("w")
        fcntl.flock(self._alive, fcntl.LOCK_EX)

    @classmethod
    def at(cls, place: Path) -> PbsServer:
        """One that another process has begun, and ends."""
        found = cls.__new__(cls)
        found._store = Store(place)
        found.commands = place / "bin"
        return found

    @property
    def path(self) -> str:
        """The PATH by which its commands are found."""
        return f"{self.commands}:{os.environ['PATH']}"

    @property
    def home(self) -> Path:
        """Where jobs start."""
        return self._store.home

    def run(
        self, *argv: str, stdin: str = "", cwd: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of its commands."""
        return subprocess.run(
            [str(self.commands / argv[0]), *argv[1:]],
            input=stdin,
            text=True,
            capture_output=True,
            check=False,
            timeout=60,
            cwd=cwd or self.home,
            env={**os.environ, **(environment or {})},
        )

    def submit(self, script: str, *options: str) -> str:
        """Submits a job that has to be taken; returns its id."""
        done = self.run("qsub", *options, stdin=f"#!/bin/bash\n{script}\n")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def told(self, name: str, *options: str) -> dict[str, Any]:
        """What qstat tells of one job, ended or not."""
        done = self.run("qstat", "-f", "-F", "json", "-x", *options, name)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)["Jobs"][name]
        return found

    def is_in(self, name: str, states: str) -> bool:
        """Whether a job is in one of these states, such as ``RF``."""
        return self.jobs()[name]["state"] in states

    def reaches(self, name: str, states: str) -> Job:
        """Waits until it is; returns the job as the server keeps it."""
        until(lambda: self.is_in(name, states), lambda: f"{name} is in {states}: {self.jobs()[name]}", within_s=60)
        return self.jobs()[name]

    def jobs(self) -> dict[str, Job]:
        """All jobs, as the server keeps them."""
        found: dict[str, Job] = self._store.read()["jobs"]
        return found

    def asked(self, command: str) -> list[str]:
        """With which words a command was called, each time."""
        asked = self._store.place / f"{command}.asked"
        return asked.read_text().splitlines() if asked.exists() else []

    # --- bad days ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def changed(self) -> Iterator[State]:
        """The server's state, to be changed; then the scheduler looks at the queue."""
        with self._store.changed() as state:
            yield state
            scheduling.cycle(state, starter(self._store))

    def set(self, **values: Any) -> None:
        """Sets what :func:`new_state` explains, such as ``history=False``."""
        with self.changed() as state:
            state.update(values)

    def fault(self, command: str, does: str, **how: Any) -> None:
        """From now on a command, or ``all``, does what :mod:`tests.fakes.pbs_stand_in.faults` says."""
        with self.changed() as state:
            state["faults"][command] = {"does": does, **how}

    def mend(self) -> None:
        """No command misbehaves any more."""
        self.set(faults={})

    def restart(self, *, stopped: Literal["quick", "immediate"] = "quick") -> None:
        """The server comes up again, as ``pbs_server`` does without a word how (``-t warm``).

        Not recorded. Source: qterm(8B), pbs_server(8B) and ``pbsd_init_job`` of OpenPBS.

        Args:
            stopped: How it went: ``quick``, as by a signal or ``qterm``, leaves alone what runs, and but for what had
                just been sent to its nodes (substate 41) that still runs; ``immediate`` has put all of it back.
        """
        with self._store.changed() as state:
            running = [each for each in state["jobs"].values() if each["state"] == "R"]
            for job in running:
                if stopped == "immediate" or job["substate"] == scheduling.SENT:
                    keeper.order(job, "requeue")
            state["faults"] = {}
        self._wait_for_orders()

    def requeue(self, name: str) -> None:
        """As a preemption by requeueing, or ``qrerun``."""
        self._order(name, "requeue")

    def suspend(self, name: str) -> None:
        """As a preemption by suspension."""
        self._order(name, "suspend")

    def resume(self, name: str) -> None:
        """Ends a suspension."""
        self._order(name, "resume")

    def hold(self, name: str) -> None:
        """``qhold``: a queued job does not start."""
        with self.changed() as state:
            state["jobs"][name].update(state="H", substate=20, hold="u")

    def release(self, name: str) -> None:
        """``qrls``."""
        with self.changed() as state:
            state["jobs"][name].update(state="Q", substate=10, hold="n", etime=int(time.time()))

    def estimate(self, name: str, in_s: float) -> None:
        """The scheduler guesses that a job will start in so many seconds."""
        with self.changed() as state:
            state["jobs"][name]["starts_at"] = time.time() + in_s

    def lose_node(self, number: int) -> None:
        """A node loses its power. After ``node_fail_requeue_s`` its jobs are queued again, or end if not rerunnable."""
        with self._store.changed() as state:
            node = state["nodes"][number]
            node.update(state="down", changed=time.time())
            for job in state["jobs"].values():
                if node["name"] in job.get("placed", ()) and job["state"] in {"R", "S"}:
                    keeper.order(job, "lose")

    def node_of(self, name: str) -> int:
        """The number of the first node of a job."""
        names = [each["name"] for each in self._store.read()["nodes"]]
        return names.index(self.jobs()[name]["placed"][0])

    def restore_node(self, number: int) -> None:
        """It is there again."""
        with self.changed() as state:
            state["nodes"][number].update(state="free", changed=time.time())

    def add_stranger(self, name: str, owner: str, /, **values: Any) -> None:
        """Somebody else's job, which runs nowhere and stays as it is."""
        number = int("".join(each for each in name.partition(".")[0].partition("[")[0]))
        with self._store.changed() as state:
            template: Job = {
                "id": name,
                "sequence": number,
                "name": "STDIN",
                "owner": owner,
                "queue": "workq",
                "state": "R",
                "substate": 42,
                "hold": "n",
                "resources": {"ncpus": 1, "nodect": 1, "place": "free", "select": "1:ncpus=1"},
                "chunks": [{"ncpus": 1}],
                "project": "_pbs_project_default",
                "output": "pbs:/home/other/STDIN.o1",
                "error": "pbs:/home/other/STDIN.e1",
                "join": "n",
                "keep": "n",
                "rerunnable": True,
                "variables": {"PBS_O_HOME": "/home/other"},
                "script": "",
                **dict.fromkeys(("ctime", "mtime", "qtime", "etime"), int(time.time())),
            }
            state["jobs"][name] = template | values

    def _order(self, name: str, what: str) -> None:
        with self._store.changed() as state:
            keeper.order(state["jobs"][name], what)
        self._wait_for_orders()

    def _wait_for_orders(self) -> None:
        until(lambda: not any("order" in each for each in self.jobs().values()), "orders are done", within_s=60)

    # --- end --------------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """All that it has started and that still runs: keepers, jobs, and what those started in their environment."""
        needle = f"FAKE_PBS={self._store.place}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if needle in (entry / "environ").read_bytes().split(b"\0") and is_alive(int(entry.name)):
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Its jobs are killed, and nothing of them is left."""
        self.set(started=False)
        self._alive.close()
        try:
            until(lambda: not self.processes(), lambda: f"no process is left: {self._left()}", within_s=60)
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[str]:
        return [f"{pid}: {command_of(pid)[:120]}" for pid in self.processes()]
