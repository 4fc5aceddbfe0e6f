"""The facts about this machine without which a number says little."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import zmq

import hpcserve

MOST_STOLEN = 0.02

T = TypeVar("T")


def measured(name: str, arguments: Sequence[str], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a benchmark has found, with the facts about its machine.

    Args:
        name: The benchmark's name.
        arguments: The other arguments of ``python -m benchmarks``.
        run: The benchmark.
    """
    about = _facts(name, arguments)
    before = _ticks()
    found = run()
    ticks, stolen = (after - first for after, first in zip(_ticks(), before, strict=True))
    about["machine"]["stolen"] = round(stolen / max(1, ticks), 4)
    return about | found


def undisturbed(measure: Callable[[], T], tries: int = 4) -> T:
    """What a measurement gives, made again while the host takes the processors for other machines.

    Nothing is chosen by its result: of ``tries`` the first counts of which others had ``MOST_STOLEN`` of the time or
    less, and if there is none, that of which they had least.
    """
    found: list[tuple[float, T]] = []
    for _ in range(tries):
        before = _ticks()
        result = measure()
        ticks, stolen = (after - first for after, first in zip(_ticks(), before, strict=True))
        found.append((stolen / max(1, ticks), result))
        if found[-1][0] <= MOST_STOLEN:
            break
    return min(found, key=lambda each: each[0])[1]


def _facts(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Command, date, processor, versions, and how busy the machine was before."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks", name, *arguments]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "cpu": _cpu_model(),
            "load_1min": round(os.getloadavg()[0], 2),
            "kernel": platform.release(),
        },
        "versions": {
            "hpcserve": hpcserve.__version__,
            "python": platform.python_version(),
            "libzmq": zmq.zmq_version(),
            **{package: version(package) for package in ("pyzmq", "msgspec", "numpy")},
        },
    }


def _ticks() -> tuple[int, int]:
    """The processors' time in all, and the part of it in which the host ran other machines (proc_stat(5): "steal").

    Where it is large, times say more about the others than about hpcserve.
    """
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu "):
            ticks = [int(each) for each in line.split()[1:9]]
            return sum(ticks), ticks[7]
    raise RuntimeError("/proc/stat has no line for all processors")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine() or sys.platform
