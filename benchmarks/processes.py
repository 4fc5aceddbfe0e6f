"""What processes have used, as the kernel counts it: processor time and memory. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor seconds of a process and all its threads, in user and kernel mode.

    Source: proc_pid_stat(5), fields utime and stime; the command's name before them may hold spaces.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def pss_bytes(pid: int) -> int:
    """Memory of a process, what it shares counted in proportion.

    Source: proc_pid_smaps_rollup(5), field Pss.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/{pid}/smaps_rollup has no Pss: the kernel is too old")


def total_cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds of all of them."""
    return sum(map(cpu_s, pids))


def total_pss_bytes(pids: Iterable[int]) -> int:
    """Memory of all of them."""
    return sum(map(pss_bytes, pids))


def children(pid: int) -> list[int]:
    """The child processes of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]
