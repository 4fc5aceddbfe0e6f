"""What a stand-in for PBS knows: one JSON file, changed by one process at a time, whoever asks.

The file is the whole server. A test steers it by :meth:`Store.changed`; for each job that runs there is a keeper, and
no other process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

State = dict[str, Any]
Job = dict[str, Any]

KNOWN_RESOURCES = ("arch", "cput", "filesystems", "host", "mem", "mpiprocs", "ncpus", "ngpus", "ompthreads", "pmem")
"""What may be asked for; ``filesystems`` is ALCF's, the others are PBS's own."""


def new_state(host: str = "pbs", user: str = "") -> State:
    """A server as that of the recordings was: four virtual nodes of two processors, all on one host."""
    return {
        "host": host,
        "user": user or pwd.getpwuid(os.getuid()).pw_name,
        "next": 1,
        "queues": {"workq": {}},
        "nodes": [{"name": f"{host}[{n}]", "host": host, "ncpus": 2, "ngpus": 0, "state": "free"} for n in range(4)],
        "jobs": {},
        "history": True,  # job_history_enable
        "started": True,  # whether the scheduler starts jobs
        "prerun_s": 0.0,  # so long a job is in substate 41
        "kill_delay_s": 10.0,
        "exiting_s": 0.0,  # so long a job is in state E
        "node_fail_requeue_s": 310.0,  # so long after a node was lost its jobs are put back into the queue
        "names_gpus": False,  # whether a job is told the numbers of its GPUs, as by the hook for cgroups
        "delivers": True,  # whether output is copied to where it was asked for
        "faults": {},  # a command's name: what it does instead; see faults.py
    }


class Store:
    """One server's directory. ``alive`` in it is locked by whom its jobs must not outlive."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = place / "home"
        self.spool = place / "spool"
        self.alive = place / "alive"
        self._file = place / "state.json"

    def create(self, state: State) -> None:
        """Begins anew."""
        for each in (self.home, self.spool):
            each.mkdir(parents=True, exist_ok=True)
        self._write(state)

    def read(self) -> State:
        """How things are now. Not to be changed."""
        found: State = json.loads(self._file.read_text())
        return found

    @contextlib.contextmanager
    def changed(self) -> Iterator[State]:
        """How things are, to be changed; nobody else changes them meanwhile."""
        with (self.place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self.read()
            yield state
            self._write(state)

    def is_orphaned(self) -> bool:
        """Whether whoever started this server is gone, however it ended."""
        try:
            with self.alive.open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def _write(self, state: State) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(self._file)
