"""Streams through the daemon: items of 64 bytes a second, and how long the first one takes.

One client reads one stream of one replica, one item after the other, and looks at each. CURVE on every hop, by Unix
sockets as its owner's processes have them, and by TCP. Windows and messages are as they come.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.ratios import summary
from benchmarks.roundtrip import TCP_SITE
from benchmarks.service import SERVABLES, running
from hpcserve.client.sync import Client

ITEM_BYTES = 64
TARGET = ">= 20000"


def run(*, items: int = 50_000, repetitions: int = 10, firsts: int = 200) -> dict[str, Any]:
    """Measures the rate of ``repetitions`` streams of ``items``, and the first item of ``firsts`` streams."""
    with _client() as client, _client(TCP_SITE) as by_tcp:
        sides = {"hpcserve": client, "hpcserve_tcp": by_tcp}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        first_us: dict[str, list[float]] = {side: [] for side in sides}
        for each in sides.values():
            _rate(each, min(items, 1000))  # warm
        for repetition in range(repetitions):
            for side in list(sides) if repetition % 2 == 0 else reversed(sides):
                rates[side].append(_rate(sides[side], items))
        for _ in range(firsts):
            for side, each in sides.items():
                first_us[side].append(_first_us(each))
    report: dict[str, Any] = {
        side: {
            "items_per_s": round(median(rates[side])),
            "first_item_p50_us": round(median(first_us[side]), 1),
        }
        for side in sides
    }
    report["intervals"] = {f"{side}_items_per_s": summary(rates[side]) for side in sides}
    report["targets"] = {"items_per_s": TARGET}
    report["method"] = {
        "item_bytes": ITEM_BYTES,
        "items": items,
        "streams_one_after_the_other": repetitions,
        "first_items": firsts,
        "transport": {"hpcserve": "unix sockets, as on one host", "hpcserve_tcp": "tcp"},
    }
    return report


@contextlib.contextmanager
def _client(site: str | None = None) -> Iterator[Client]:
    """A client of a daemon of its own, which serves ``ticker``."""
    with running(site) as service:
        service.deploy(Path(SERVABLES) / "ticker")
        with Client() as client:
            yield client


def _rate(client: Client, items: int) -> float:
    start, count = time.perf_counter(), 0
    for each in client.stream("ticker", np.int64(items)):
        assert each["x"][0] == count, f"item {count} is {each['x'][0]}"
        count += 1
    assert count == items, f"{count} items of {items}"
    return items / (time.perf_counter() - start)


def _first_us(client: Client) -> float:
    start = time.perf_counter()
    with client.stream("ticker", np.int64(1)) as items:
        next(items)
        return (time.perf_counter() - start) * 1e6
