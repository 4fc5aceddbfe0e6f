"""The daemon's processes as a file in its runtime directory: which process is which, and whether it runs.

A pid alone names nothing, and the directory may be one that other hosts see: each process stands there with its start,
and all with the run of the kernel and the PID namespace in which that means something.

The holder of the lease ends what is left there of a daemon before it. As a rule a process of the daemon sees that its
supervisor is gone, or that the lease is lost, and ends by itself. One that is stopped does not: it keeps the Unix
sockets of its peers, who would wait for it for ever, since there are no heartbeats on those.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hpcserve.auth import private
from hpcserve.cluster.processes import boot_id, is_stopped, pid_namespace, signal_group, start_time

_log = logging.getLogger(__name__)

FILE = "processes.json"
SUPERVISOR = "supervisor"
ENDED_WITHIN_S = 5.0
"""So long a killed process is waited for, which may hold a port that we want."""
_LOOK_S = 0.01


class _Process(msgspec.Struct, frozen=True):
    pid: int
    started: str


class _Noted(msgspec.Struct, frozen=True):
    boot: str
    namespace: str
    processes: dict[str, _Process]


def write(runtime_dir: Path, pids: Mapping[str, int]) -> None:
    """Writes down processes that run.

    Raises:
        HpcserveError: That is not possible.
    """
    processes = {name: _Process(pid, start_time(pid) or "") for name, pid in pids.items()}
    private.replace(runtime_dir / FILE, msgspec.json.encode(_Noted(boot_id(), pid_namespace(), processes)))


def noted(runtime_dir: Path) -> dict[str, int]:
    """The pids that were written down last, by name; none if they cannot be read."""
    found = _read(runtime_dir)
    return {} if found is None else {name: process.pid for name, process in found.processes.items()}


def running(runtime_dir: Path) -> dict[str, int]:
    """Those of them that run, as processes of this host."""
    found = _read(runtime_dir)
    if found is None or (found.boot, found.namespace) != (boot_id(), pid_namespace()):
        return {}
    return {name: each.pid for name, each in found.processes.items() if start_time(each.pid) == each.started}


def stopped(runtime_dir: Path) -> dict[str, int]:
    """Those that run on this host and stand still, since somebody has sent them SIGSTOP."""
    return {name: pid for name, pid in running(runtime_dir).items() if is_stopped(pid)}


def stopped_in_words(runtime_dir: Path) -> str:
    """Which of them stand still, and what to do; empty where none does."""
    found = stopped(runtime_dir)
    if not found:
        return ""
    names = " and ".join(f"the {name} (pid {pid})" for name, pid in found.items())
    told = f"{names} {'was' if len(found) == 1 else 'were'} stopped by somebody (SIGSTOP)"
    if SUPERVISOR not in found:
        go_on = f"kill -CONT {' '.join(map(str, found.values()))}"
        return f"{told}; the supervisor lets that go on within a minute; to do so now: {go_on}"
    return f"{told}; {how_to_go_on(*found.values())}, {how_to_replace(found[SUPERVISOR])}"


def how_to_go_on(*pids: int) -> str:
    """For people who find processes stopped."""
    return f"to let the daemon go on: kill -CONT {' '.join(map(str, pids))}"


def how_to_replace(supervisor: int) -> str:
    """For people whose daemon stands still."""
    return f"or to put another in its place: kill -KILL {supervisor}, then hpcserve up"


def end_left(runtime_dir: Path) -> None:
    """Kills what is left of a daemon that has lost its lease. Only the holder of the lease may call this.

    A supervisor by itself is about to end: it gives the lease back after its children have ended.
    """
    left = running(runtime_dir)
    if not left.keys() - {SUPERVISOR}:
        return
    _log.warning("killed, for they are left of a daemon that has lost the lease: %s", left)
    supervisor = left.pop(SUPERVISOR, None)
    if supervisor is not None:  # first: it would start the others again
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGKILL)
    for child in left.values():
        signal_group(child, signal.SIGKILL)
    until = time.monotonic() + ENDED_WITHIN_S
    while running(runtime_dir) and time.monotonic() < until:
        time.sleep(_LOOK_S)


def _read(runtime_dir: Path) -> _Noted | None:
    try:
        return msgspec.json.decode((runtime_dir / FILE).read_bytes(), type=_Noted)
    except (OSError, msgspec.MsgspecError):
        return None
