"""From nothing to the first answer: ``hpcserve up`` with a deployment already in the store."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import Any

from benchmarks.ratios import interval
from benchmarks.roundtrip import SMALL
from benchmarks.service import own_home, running_in
from hpcserve.client.sync import Client

PATIENCE_S = 60.0
HPCSERVE = (sys.executable, "-m", "hpcserve.cli.main")


def run(*, repetitions: int) -> dict[str, Any]:
    """Starts and stops a daemon ``repetitions`` times; the first, which warms the caches, is not counted."""
    with own_home() as home:
        with running_in(home) as service:
            service.deploy_echo(1)
        times = [_once() for _ in range(repetitions + 1)][1:]
    ready, answer = zip(*times, strict=True)
    low, high = interval(answer)
    return {
        "first_answer_s": round(median(answer), 3),
        "first_answer_interval_95_s": [round(low, 3), round(high, 3)],
        "up_returns_s": round(median(ready), 3),
        "repetitions": repetitions,
        "targets": {"first_answer_s": "< 3"},
    }


def _once() -> tuple[float, float]:
    """Seconds until ``up --detach`` returns, and until the first answer."""
    began = time.monotonic()
    subprocess.run([*HPCSERVE, "up", "--detach"], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    up_s = time.monotonic() - began
    try:
        with Client() as client:
            client.infer("echo.echo", SMALL)
            answered_s = time.monotonic() - began
    finally:
        subprocess.run([*HPCSERVE, "down"], check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    return up_s, answered_s
