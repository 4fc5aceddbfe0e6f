"""What a rank has started ends with it, however it ends.

A launcher that kills a rank knows nothing of a process that has left the rank's session, and MPICH's mpiexec even waits
for it, as it may still write to the rank's log; so that a group of which one rank died would neither end nor be
replaced. The containers of ranks share the process ids of their node, so no kernel ends what is left in them either.

So each rank of several has a sweeper: a process that waits for the rank's end, kills all that the rank has left
behind, and ends. In a container that is all in the container's mount namespace, which nobody in there can leave.
Elsewhere it is all that has the rank's variables in its environment, or, of what was given another environment, all
that is in the rank's session, or holds the pipes of its output.

The sweeper is nobody's child and in a session of its own, so that those who kill the rank do not kill it too. Where
Slurm keeps a step's processes in a control group, Slurm ends them all, and the sweeper with them.

A rank whose sweeper is killed sweeps itself and ends, and its group with it: it holds a pipe that the sweeper keeps
open, at whose end the kernel sends it a SIGIO (fcntl(2), O_ASYNC).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from hpcserve.replica.rank import RANK_VARIABLES
from hpcserve.wire.launch import GROUP, OUTSIDE

Belongs = Callable[[int], bool]

NAME = "hpcserve-sweep"
"""What ``ps -o comm`` and ``top`` call a sweeper, whose command line is that of its rank."""

_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID")
_LOOK_S = 0.5
_AGAIN_S = 0.02
_SELDOM_S = 5.0
_GIVE_UP_S = 300.0  # what still is there hangs in the kernel
_MOST_DESCRIPTORS = 65536


def sweep_at_end(environment: Mapping[str, str]) -> None:
    """Starts the sweeper of this process, if it is one of several ranks. Linux only: nobody else has ``/proc``.

    Args:
        environment: The process's own, as it was at its start.
    """
    belongs = _in_container(environment) or _of_rank(environment)
    rank = os.getpid()
    started = _started(rank)
    if belongs is None or not started:
        return
    end = _end_of(rank)
    sees, holds = os.pipe()
    child = os.fork()
    if not child:
        _become_sweeper(rank, started, end, holds, belongs)
    os.waitpid(child, 0)
    os.close(holds)
    if end is not None:
        os.close(end)
    _end_without(sees, belongs)


def _end_without(pipe: int, belongs: Belongs) -> None:
    """Ends this process when nobody holds the other end of a pipe any more."""

    def lost(_signum: int, _frame: object) -> None:
        if not select.select([pipe], [], [], 0)[0]:
            return  # it was sent for something else
        sys.stderr.write("this rank ends, and its group: its sweeper, which ends what it has started, was killed\n")
        sys.stderr.flush()
        _kill_all(belongs)
        os._exit(1)

    signal.signal(signal.SIGIO, lost)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _in_container(environment: Mapping[str, str]) -> Belongs | None:
    """Who is in this process's container. What is outside, its starter has told: that is never swept."""
    outside, inside = environment.get(OUTSIDE, ""), _namespace(os.getpid())
    if not outside or inside in ("", outside):
        return None
    return lambda pid: _namespace(pid) == inside


def _of_rank(environment: Mapping[str, str]) -> Belongs | None:
    """Who was started with the variables that name this rank, of this group; or without them, by it all the same."""
    names = [GROUP, next((name for name in RANK_VARIABLES if name in environment), "")]
    if any(not environment.get(name) for name in names):
        return None
    names += [name for name in _JOB_VARIABLES if environment.get(name)]  # a job that a rank submits has its own
    wanted = {f"{name}={environment[name]}".encode() for name in names}
    of_group = f"{GROUP}=".encode()
    rank, pipes = os.getpid(), _pipes(os.getpid()).get
    leads, output = os.getsid(0) == rank, {pipes(1), pipes(2)} - {None}
    begun = int(_started(rank) or 0)

    def belongs(pid: int) -> bool:
        # What launched this rank is older, and may have the variables of another launcher, the job's.
        if int(_started(pid) or 0) <= begun:
            return False
        variables = _variables(pid)
        if any(each.startswith(of_group) for each in variables):
            return wanted <= variables
        return (leads and _session(pid) == rank) or not output.isdisjoint(_pipes(pid).values())

    return belongs


def _become_sweeper(rank: int, started: str, end: int | None, holds: int, belongs: Belongs) -> NoReturn:
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        Path("/proc/self/comm").write_text(NAME)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        first = 0
        for kept in sorted({holds, holds if end is None else end}):
            os.closerange(first, kept)  # launchers wait until nobody can write to their pipes
            first = kept + 1
        os.closerange(first, _MOST_DESCRIPTORS)
        if end is not None:
            select.select([end], [], [])
        while _started(rank) == started:
            time.sleep(_LOOK_S)
        pause_s, until = _AGAIN_S, time.monotonic() + _GIVE_UP_S
        while _kill_all(belongs) and time.monotonic() < until:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _SELDOM_S)
    finally:
        os._exit(0)


def _end_of(pid: int) -> int | None:
    """A descriptor that can be read when the process has ended; None before Linux 5.3."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _started(pid: int) -> str:
    """When it was started, in the kernel's own notation; empty: it has ended. Source: proc(5), fields 3 and 22."""
    with contextlib.suppress(OSError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    return ""


def _namespace(pid: int) -> str:
    """The mount namespace of a process; empty: it is gone, or a stranger's."""
    try:
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return ""


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _pipes(pid: int) -> dict[int, str]:
    """The pipes that a process holds, by descriptor; none: it is gone, or a stranger's."""
    found = {}
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                name = str(each.readlink())
                if name.startswith("pipe:"):
                    found[int(each.name)] = name
    return found


def _variables(pid: int) -> set[bytes]:
    """What a process was started with, as ``NAME=VALUE``; empty: it is gone, or a stranger's."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def _kill_all(belongs: Belongs) -> bool:
    """Kills all but this process that belong to the rank; whether there were any that may be killed."""
    there = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]
    killed = [_kill(pid) for pid in there if pid != os.getpid() and belongs(pid)]
    return any(killed)


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:  # it has become another user's
        return False
    return True
