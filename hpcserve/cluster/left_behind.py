"""Ends what a command leaves behind, be it in sessions of its own: this process adopts it, and kills it.

A process whose parent has ended becomes the child of its nearest ancestor that asked for that (prctl(2),
PR_SET_CHILD_SUBREAPER), whatever it has done to its group, its session or its environment. Linux only; elsewhere
nothing is adopted. For a process that starts nothing else meanwhile: all that became its child is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_GIVE_UP_S = 10.0  # what is still there hangs in the kernel
_LOOK_S = 0.02


@contextlib.contextmanager
def ended_with() -> Iterator[None]:
    """Kills, at the end, all that was started meanwhile below this process and is still there."""
    if not sys.platform.startswith("linux"):
        yield
        return
    before = _children()
    _adopt(1)
    try:
        yield
    finally:
        until_s = time.monotonic() + _GIVE_UP_S
        # Those of one that was killed become ours in turn.
        while _kill_all(_children() - before) and time.monotonic() < until_s:
            time.sleep(_LOOK_S)
        _adopt(0)


def _adopt(wanted: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, wanted, 0, 0, 0)


def _children() -> set[int]:
    """The pids of this process's children, those too that have ended. Source: proc(5), ``/proc/pid/stat``, field 4."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                if int(parent) == os.getpid():
                    found.add(int(entry.name))
    return found


def _kill_all(children: set[int]) -> bool:
    """Whether there were any that may be killed."""
    killed = [_kill(pid) for pid in children]
    return any(killed)


def _kill(pid: int) -> bool:
    """Kills a child, and reaps it once it has ended; False where it may not be killed: it has become another user's."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)
    except PermissionError:
        return False
    except (ProcessLookupError, ChildProcessError):
        return True
    return True
