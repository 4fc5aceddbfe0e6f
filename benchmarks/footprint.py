"""What the daemon itself uses: at rest with many sessions, and for each request.

The daemon is its supervisor, broker, controller and admission; replicas and agents are the pilots' business.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from benchmarks.processes import cpu_s, pss_bytes, total_cpu_s, total_pss_bytes
from benchmarks.roundtrip import SMALL, WINDOW
from benchmarks.service import running
from hpcserve.client.sync import Client

MIB = 1 << 20


def run(
    *, replicas: int = 8, sessions: int = 100, idle_s: float = 30.0, warm_up: int = 5_000, requests: int = 100_000
) -> dict[str, Any]:
    """Measures one daemon.

    Args:
        replicas: Replicas of the example ``echo``.
        sessions: Clients that are connected and do nothing, in this process.
        idle_s: How long they do nothing.
        warm_up: Requests before the memory is looked at first.
        requests: Requests between the first look and the last.
    """
    with running() as service, contextlib.ExitStack() as clients:
        service.deploy_echo(replicas)
        for _ in range(sessions):
            clients.enter_context(Client())
        pids = service.pids
        began, before = time.monotonic(), total_cpu_s(pids.values())
        time.sleep(idle_s)
        idle_share = (total_cpu_s(pids.values()) - before) / (time.monotonic() - began)
        idle_pss = {name: pss_bytes(pid) for name, pid in pids.items()}
        load = _load(pids, warm_up, requests)
        connected = service.status().sessions - 1
    return {
        "replicas": replicas,
        "idle_sessions": connected,
        "idle_cpu_percent": round(100 * idle_share, 3),
        "idle_s": idle_s,
        "pss_mib": round(sum(idle_pss.values()) / MIB, 1),
        "pss_mib_by_process": {name: round(size / MIB, 1) for name, size in idle_pss.items()},
        **load,
        "targets": {"idle_cpu_percent": "< 1", "pss_mib": "< 200", "memory_growth_percent": "< 5"},
    }


def _load(pids: dict[str, int], warm_up: int, requests: int) -> dict[str, Any]:
    with Client() as client:
        _send(client, warm_up)
        pss_before = total_pss_bytes(pids.values())
        cpu_before = {name: cpu_s(pid) for name, pid in pids.items()}
        _send(client, requests)
        spent = {name: cpu_s(pid) - cpu_before[name] for name, pid in pids.items()}
        pss_after = total_pss_bytes(pids.values())
    thousands = requests / 1000
    return {
        "requests": requests,
        "cpu_s_per_1000_requests": round(sum(spent.values()) / thousands, 4),
        "cpu_s_per_1000_requests_by_process": {name: round(each / thousands, 4) for name, each in spent.items()},
        "pss_mib_before_requests": round(pss_before / MIB, 2),
        "pss_mib_after_requests": round(pss_after / MIB, 2),
        "memory_growth_percent": round(100 * (pss_after / pss_before - 1), 2),
    }


def _send(client: Client, requests: int) -> None:
    answers = sum(1 for _ in client.map("echo.echo", (SMALL for _ in range(requests)), in_flight=WINDOW))
    assert answers == requests, f"{answers} answers to {requests} requests"
