"""Namespaces of Linux: a process started inside, a thread that joins.

A process is started with no process in between, so that its pid, its signals and its exit code are its own.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
"""Source: setns(2), <linux/sched.h>."""

Stream = IO[bytes] | int | None

_LIBC = ctypes.CDLL(None, use_errno=True)


def start_in(
    init: int,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = None,
    stderr: Stream = None,
    own_session: bool = True,
) -> subprocess.Popen[str]:
    """Starts a command in all namespaces of the process ``init``, as this machine counts pids.

    nsenter would fork to change the pid namespace, and a signal would reach it alone. The caller's children are born
    in that namespace already, so nsenter has only to become the command.
    """
    enter = ["nsenter", f"--target={init}", "--mount", "--net", "--uts", "--ipc", "--"]
    with _joined(init, {"pid": CLONE_NEWPID}):
        return subprocess.Popen(
            [*enter, "env", f"--chdir={cwd}", "--", *argv],
            env=dict(env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="replace",
            start_new_session=own_session,
        )


@contextmanager
def network_of(init: int) -> Iterator[None]:
    """The calling thread, and each that it starts meanwhile, has the network and the host name of ``init``."""
    with _joined(init, {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS}):
        yield


def only_child(pid: int) -> int | None:
    """The pid of a process that has ``pid`` as its parent; None if there is none (yet)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[1]) == pid:
            return int(stat.parent.name)
    return None


@contextmanager
def _joined(pid: int, kinds: Mapping[str, int]) -> Iterator[None]:
    """The calling thread joins; of the pid namespace, only its children become members."""
    before = {kind: os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in kinds}
    try:
        for kind, flag in kinds.items():
            theirs = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
            try:
                _setns(theirs, flag)
            finally:
                os.close(theirs)
        yield
    finally:
        for kind, ours in before.items():
            _setns(ours, kinds[kind])
            os.close(ours)


def _setns(descriptor: int, flag: int) -> None:
    if _LIBC.setns(descriptor, flag):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
