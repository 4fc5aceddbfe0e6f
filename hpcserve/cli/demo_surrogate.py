"""The demo's surrogate: 32 clients call one replica with batches, and one without, in turns.

Each client has a session and a thread of its own, and waits for an answer before it asks again, as a rank of a
simulation does. All numbers come from the answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import Any, Self

import msgspec
import numpy as np

from hpcserve.cli.latency_plot import Latencies
from hpcserve.client import Client
from hpcserve.examples.surrogate.oscillator import drawn, solve

Array = np.ndarray[Any, Any]
Say = Callable[[str], None]

CLIENTS = 32
ON, OFF = "surrogate", "surrogate-one-by-one"
"""The endpoints of the two deployments."""
TURNS = 3
TURN_S = 1.0
WARM_UP_S = 0.5
RMS_AT_MOST = 0.01
"""The least-squares fit reaches 0.0035, where a solution's root mean square is 0.49."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What the clients found at one of the deployments."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float


class SurrogateError(msgspec.Struct, frozen=True, kw_only=True):
    """How far the answers are from what the solver says, in the unit of x and v."""

    rms: float
    max: float
    answers: int


class Surrogate(msgspec.Struct, frozen=True, kw_only=True):
    """``plot``: the path of the picture; empty where there is none."""

    clients: int
    batching_on: Side
    batching_off: Side
    error: SurrogateError
    plot: str = ""


class Answer(msgspec.Struct, frozen=True):
    """What a client has asked, what it was told, and how long that took."""

    asked: Array
    told: Array
    latency_ms: float


class Callers:
    """So many clients, to be used with ``with``: at its end all have left, and no thread goes on.

    Args:
        count: How many.
        timeout_s: The deadline of each call.
    """

    def __init__(self, count: int, *, timeout_s: float) -> None:
        self._over = Event()
        self._open = ExitStack()
        try:
            self._clients = [self._open.enter_context(Client(timeout_s=timeout_s)) for _ in range(count)]
            self._threads = ThreadPoolExecutor(count)
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._open.close()  # what waits for an answer fails at once
        self._threads.shutdown()

    def call(self, endpoint: str, seconds: float) -> tuple[list[Answer], float]:
        """All call ``endpoint`` for so many seconds; returns their answers, and how long it took in all.

        Raises:
            HpcserveError: A request failed.
        """
        began = time.perf_counter()
        runs = [
            self._threads.submit(self._ask, client, endpoint, seed, began + seconds)
            for seed, client in enumerate(self._clients)
        ]
        answers = [answer for run in runs for answer in run.result()]
        return answers, time.perf_counter() - began

    def _ask(self, client: Client, endpoint: str, seed: int, until: float) -> list[Answer]:
        oscillators = drawn(256, seed=seed)
        answers: list[Answer] = []
        while not self._over.is_set() and time.perf_counter() < until:
            index = len(answers) % len(oscillators)
            asked = oscillators[index : index + 1]
            began = time.perf_counter()
            told = client.infer(endpoint, asked)["end"]
            answers.append(Answer(asked[0], told[0], (time.perf_counter() - began) * 1000))
        return answers


def measure(callers: Callers, say: Say) -> tuple[Surrogate, Latencies]:
    """What the callers find with batches on and off, and how long each request took."""
    seconds = 2 * (TURNS * TURN_S + WARM_UP_S)
    say(f"calling the surrogate from {CLIENTS} clients for {seconds:g} s, with batches and without in turns")
    found: dict[str, list[Answer]] = {ON: [], OFF: []}
    took_s = dict.fromkeys(found, 0.0)
    for endpoint in found:
        callers.call(endpoint, WARM_UP_S)
    for _ in range(TURNS):
        for endpoint in found:
            answers, this_s = callers.call(endpoint, TURN_S)
            found[endpoint] += answers
            took_s[endpoint] += this_s
    surrogate = Surrogate(
        clients=CLIENTS,
        batching_on=_side(found[ON], took_s[ON]),
        batching_off=_side(found[OFF], took_s[OFF]),
        error=_error([*found[ON], *found[OFF]]),
    )
    return surrogate, {
        "batching on": [each.latency_ms for each in found[ON]],
        "batching off": [each.latency_ms for each in found[OFF]],
    }


def _side(answers: list[Answer], took_s: float) -> Side:
    p50, p99 = np.percentile([each.latency_ms for each in answers], [50, 99]).tolist()
    return Side(requests=len(answers), requests_per_s=len(answers) / took_s, p50_ms=p50, p99_ms=p99)


def _error(answers: list[Answer]) -> SurrogateError:
    wrong = np.array([each.told for each in answers]) - solve(np.array([each.asked for each in answers]))
    return SurrogateError(rms=float(np.sqrt(np.mean(wrong**2))), max=float(np.abs(wrong).max()), answers=len(answers))
