"""Processes of this machine: start them in sessions of their own, recognise them later, reap them.

A pid alone names nothing: the kernel gives it again. (boot id, pid, start time) names one process for good.
Decides nothing about when a process is started or ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_PS_TIMEOUT_S = 5.0


def boot_id() -> str:
    """Names this run of the machine's kernel; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""


def pid_namespace() -> str:
    """Names the set of processes among which a pid is one; two containers of a host have two."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def start_time(pid: int) -> str | None:
    """When process ``pid`` was started, in the system's own notation; None: no such process lives.

    A zombie does not live. Source: proc(5), ``/proc/pid/stat``, fields 3 (state) and 22 (starttime).
    """
    state, started = _state(pid)
    return None if state[:1] in "ZX" else started


def is_stopped(pid: int) -> bool:
    """Whether process ``pid`` got SIGSTOP, and stands still until it gets SIGCONT. One in a debugger does not count.

    Source: proc(5), ``/proc/pid/stat``, field 3: ``T`` is stopped, ``t`` traced.
    """
    return _state(pid)[0].startswith("T")


def _state(pid: int) -> tuple[str, str]:
    """The state in the system's own letters, and when it was started; empty without such a process."""
    if not sys.platform.startswith("linux"):
        return _state_from_ps(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    # The command's name, field 2, stands in parentheses and may itself hold spaces and parentheses.
    state, *rest = stat.rpartition(")")[2].split()
    return state, rest[18]


def _state_from_ps(pid: int) -> tuple[str, str]:
    answer = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        timeout=_PS_TIMEOUT_S,
        check=False,
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return state, started.strip()


def age_s() -> float:
    """How long ago this process was begun, by a clock that no one sets; 0.0 where the system does not tell.

    A program that took the process over by ``exec`` counts from the first one's start.
    """
    started = start_time(os.getpid())
    if started is None or not sys.platform.startswith("linux"):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / os.sysconf("SC_CLK_TCK"))


def spawn(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    keep: Iterable[int] = (),
) -> int:
    """Starts ``argv`` in a session and process group of its own.

    Args:
        argv: The command; its first word is looked up in PATH.
        environment: The whole environment of the new process.
        stdin: The descriptor that becomes its standard input.
        stdout: The descriptor that becomes its standard output.
        stderr: The descriptor that becomes its standard error.
        keep: Further descriptors that it inherits under their own numbers.

    Returns:
        The pid, for :func:`reap`.

    Raises:
        OSError: The command does not exist or cannot be run.
    """
    kept = tuple(keep)
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    try:
        return os.posix_spawnp(
            argv[0],
            list(argv),
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
            ],
            setsid=True,
            # Python ignores these two, and what is ignored stays so across exec.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    finally:
        for descriptor in kept:
            os.set_inheritable(descriptor, False)


def signal_group(leader: int, number: int) -> None:
    """Sends a signal to the process group of ``leader``; nothing happens when the group is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def reap(child: int) -> int | None:
    """Takes the exit code of a child started by :func:`spawn`, once; None while it lives.

    What is left of its process group is killed before its pid becomes free for others.

    Returns:
        The exit code, negative for the signal that ended it.
    """
    if hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        signal_group(child, signal.SIGKILL)
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def exit_in_words(code: int) -> str:
    """``exit code 3`` or ``killed by signal 9 (SIGKILL)``."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"killed by signal {-code}"
