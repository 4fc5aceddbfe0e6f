"""One request and its answer: hpcserve beside the bare baseline, in turns.

A pair is one measurement of each side with the same number of messages of the same size: calls one after
the other, then twice as many with a fixed number outstanding, CURVE on every hop. Ratios are made within a
pair, so that what else the machine does touches both sides; the one that goes first changes from pair to pair.

hpcserve is measured as it comes, which is by Unix sockets, as its owner's client and replica are on the daemon's own
host; and by TCP, which is what the baseline uses and what peers on other hosts have.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks import bare_zmq
from benchmarks.bare import topologies
from benchmarks.ratios import summary
from benchmarks.service import running
from hpcserve.client.sync import Client

SMALL = np.zeros(64, np.float32)
WINDOW = 64
LARGE_BYTES = 8_000_000
LARGE_WINDOW = 4
WARM_UP = 100
TCP_SITE = """
[network]
unix_sockets = false
"""

Measured = dict[str, float]
Measure = Callable[[], Measured]


def measure(client: Client, endpoint: str, tensor: np.ndarray[Any, Any], n: int, window: int) -> Measured:
    """What :func:`benchmarks.bare_zmq.measure` does, by the client's public calls."""
    for _ in range(min(WARM_UP, n)):
        client.infer(endpoint, tensor)
    latencies = []
    for _ in range(n):
        start = time.perf_counter()
        client.infer(endpoint, tensor)
        latencies.append(time.perf_counter() - start)
    latencies.sort()
    total = 2 * n
    start = time.perf_counter()
    answers = sum(1 for _ in client.map(endpoint, (tensor for _ in range(total)), in_flight=window))
    elapsed = time.perf_counter() - start
    assert answers == total, f"{answers} answers to {total} requests"
    return {
        "p50_us": latencies[n // 2] * 1e6,
        "p99_us": latencies[int(n * 0.99)] * 1e6,
        "rps": total / elapsed,
        "mbps": 2 * tensor.nbytes * total / elapsed / 1e6,
    }


def run(*, pairs: int, n: int = 1000, large_n: int = 8) -> dict[str, Any]:
    """Measures ``pairs`` pairs.

    Args:
        pairs: The number of pairs.
        n: Calls of a small measurement, one after the other; twice as many follow with 64 outstanding.
        large_n: The same for 8 MB, with 4 outstanding.
    """
    with topologies() as (keys, addresses), _client() as client, _client(TCP_SITE) as by_tcp:

        def bare(topology: str, size: int, count: int, window: int) -> Measure:
            return lambda: bare_zmq.measure(addresses[topology], keys, size, count, window)

        small = in_turns(
            pairs,
            {
                "bare_direct": bare("direct", SMALL.nbytes, n, WINDOW),
                "hpcserve_tcp": lambda: measure(by_tcp, "echo.echo", SMALL, n, WINDOW),
                "bare_broker": bare("broker", SMALL.nbytes, n, WINDOW),
                "hpcserve": lambda: measure(client, "echo.echo", SMALL, n, WINDOW),
            },
        )
        blob = np.zeros(LARGE_BYTES, np.uint8)
        large = in_turns(
            pairs,
            {
                "hpcserve_tcp": lambda: measure(by_tcp, "echo.blob", blob, large_n, LARGE_WINDOW),
                "bare_broker": bare("broker", LARGE_BYTES, large_n, LARGE_WINDOW),
                "hpcserve": lambda: measure(client, "echo.blob", blob, large_n, LARGE_WINDOW),
            },
        )
    return _report(small, large, n, large_n)


@contextlib.contextmanager
def _client(site: str | None = None) -> Iterator[Client]:
    """A client of a daemon of its own, which serves ``echo``."""
    with running(site) as service:
        service.deploy_echo(1)
        with Client() as client:
            yield client


def in_turns(pairs: int, sides: dict[str, Measure]) -> dict[str, list[Measured]]:
    """Measures each side ``pairs`` times, and lets another one go first each time."""
    measured: dict[str, list[Measured]] = {name: [] for name in sides}
    for pair in range(pairs):
        for name in list(sides) if pair % 2 == 0 else reversed(sides):
            measured[name].append(sides[name]())
    return measured


def _report(small: dict[str, list[Measured]], large: dict[str, list[Measured]], n: int, large_n: int) -> dict[str, Any]:
    ratios = {
        f"{name}{suffix}": summary(list(_ratios(measured, f"hpcserve{suffix}", key)))
        for suffix in ("", "_tcp")
        for name, measured, key in (
            ("ratio_p50", small, "p50_us"),
            ("ratio_rps", small, "rps"),
            ("mbps_ratio", large, "mbps"),
        )
    }
    report: dict[str, Any] = {
        side: {key: round(median(each[key] for each in measured), 1) for key in ("p50_us", "p99_us", "rps")}
        for side, measured in small.items()
    }
    report |= {name: of["median"] for name, of in ratios.items()}
    report["mbps"] = {side: round(median(each["mbps"] for each in measured), 1) for side, measured in large.items()}
    report["intervals"] = ratios
    report["targets"] = {"ratio_p50": "<= 1.3", "ratio_rps": ">= 0.7", "mbps_ratio": ">= 0.8"}
    report["targets"] |= {f"{name}_tcp": target for name, target in report["targets"].items()}
    report["method"] = {
        "transport": {"bare": "tcp", "hpcserve": "unix sockets, as on one host", "hpcserve_tcp": "tcp"},
        "interval": "median of the pairs' ratios, between order statistics, at least 95 %",
        "small": {"bytes": SMALL.nbytes, "sequential": n, "pipelined": 2 * n, "outstanding": WINDOW},
        "large": {"bytes": LARGE_BYTES, "pipelined": 2 * large_n, "outstanding": LARGE_WINDOW},
    }
    return report


def _ratios(measured: dict[str, list[Measured]], side: str, key: str) -> Iterator[float]:
    for ours, bare in zip(measured[side], measured["bare_broker"], strict=True):
        yield ours[key] / bare[key]
