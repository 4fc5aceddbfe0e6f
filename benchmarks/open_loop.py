"""Requests that come whether or not earlier ones were answered, at random times: what many callers look like.

A closed loop waits with the server, and so never sees what a queue does to latency.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from hpcserve.client.sync import Client
from hpcserve.errors import HpcserveError


class Sent(NamedTuple):
    """One request: when it was due and when its answer was there, in seconds since the start; ``error`` is its code."""

    due_s: float
    answered_s: float
    error: str

    @property
    def latency_s(self) -> float:
        """From when it was due: a sender that falls behind does not hide it."""
        return self.answered_s - self.due_s


def poisson(
    client: Client,
    endpoint: str,
    inputs: Any,
    *,
    rate: float,
    seconds: float,
    parameters: Callable[[float], dict[str, Any]],
    seed: int,
    **options: Any,
) -> list[Sent]:
    """Sends ``rate`` requests a second, on average, for so many seconds; returns when all are answered.

    Args:
        client: Whose requests they are.
        endpoint: What they call.
        inputs: The same for all.
        rate: Requests a second.
        seconds: For how long.
        parameters: Those of a request that is due at this time.
        seed: Of the times.
        options: Further arguments of :meth:`Client.submit`.
    """
    dice = random.Random(seed)
    sent: list[Sent] = []
    open_requests = threading.Semaphore(0)
    count, due_s = 0, dice.expovariate(rate)
    began = time.perf_counter()

    def note(future: Any, due_s: float) -> None:
        error = future.exception()
        code = error.code if isinstance(error, HpcserveError) else ""
        sent.append(Sent(due_s, time.perf_counter() - began, code))
        open_requests.release()

    while due_s < seconds:
        pause_s = due_s - (time.perf_counter() - began)
        if pause_s > 0:
            time.sleep(pause_s)
        future = client.submit(endpoint, inputs, parameters=parameters(due_s), **options)
        future.add_done_callback(partial(note, due_s=due_s))
        count += 1
        due_s += dice.expovariate(rate)
    for _ in range(count):
        open_requests.acquire()
    return sent


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
