"""The facts about this machine without which a number says little."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zmq

import hpcserve


def facts(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Command, date, processor, versions, and how busy the machine was before.

    Args:
        name: The benchmark's name.
        arguments: The other arguments of ``python -m benchmarks``.
    """
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


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine() or sys.platform
