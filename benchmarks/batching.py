"""What adaptive batches are worth: beside the best fixed size, under an objective, and after a change of the model.

The model sleeps for ``a + b·n``. For each pair of a and b:

- the best fixed size is found by a sweep: the highest throughput with 512 requests outstanding, among the sizes whose
  two batches (the one that runs and one's own) fit into the objective;
- the adaptive replica's throughput is measured in the same way, in turns with that size;
- then requests come at random at 80 % of that throughput (an open loop), and the share of the objective that the
  99th percentile of their latency takes is reported: that of each two seconds, and of these the median, which does
  not follow a machine that stands still for a while;
- a change doubles a and b in the middle of an open loop, at 60 % of the slower model's throughput.

Without load, calls one after the other are made in turns with batches on and off.

Each measurement is made again if the host has run other machines meanwhile (:func:`benchmarks.machine.undisturbed`).
"""

from __future__ import annotations

import math
import time
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import undisturbed
from benchmarks.open_loop import Sent, percentile, poisson
from benchmarks.ratios import summary
from benchmarks.service import SERVABLES, Service, running
from hpcserve.client.sync import Client

X = np.ones((1, 16), np.float32)
OUTSTANDING = 512
SETTLE_S = 3.0
RELEARN_S = 5.0
BIN_S = 0.5
WINDOW_S = 2.0
SIZES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)


class Case(NamedTuple):
    """A model and what its callers want, in milliseconds."""

    fixed_ms: float
    sample_ms: float
    objective_ms: float

    @property
    def parameters(self) -> dict[str, float]:
        """What makes the servable such a model."""
        return {"fixed_ms": self.fixed_ms, "sample_ms": self.sample_ms}

    def batch_ms(self, samples: int) -> float:
        """How long a batch takes."""
        return self.fixed_ms + samples * self.sample_ms

    @property
    def sizes(self) -> tuple[int, ...]:
        """The fixed sizes that keep the objective."""
        return tuple(size for size in SIZES if 2 * self.batch_ms(size) <= self.objective_ms)


CASES = (Case(10.0, 0.5, 100.0), Case(20.0, 2.0, 200.0), Case(2.0, 1.0, 60.0))


def run(
    *, seconds: float = 10.0, repetitions: int = 5, calls: int = 300, cases: tuple[Case, ...] = CASES
) -> dict[str, Any]:
    """Measures all cases.

    Args:
        seconds: The length of each open loop, without the time in which it settles.
        repetitions: Pairs of throughputs, and of measurements without load.
        calls: Calls of a measurement without load.
        cases: The models.
    """
    with running() as service:
        service.deploy_echo(1)
        with Client() as client:
            report: dict[str, Any] = {"cases": [_case(service, client, case, seconds, repetitions) for case in cases]}
            report["idle"] = _idle(service, client, calls, repetitions)
    report["throughput_ratio"] = min(case["throughput_ratio"]["median"] for case in report["cases"])
    report["p99_of_objective"] = max(case["p99_of_objective"] for case in report["cases"])
    report["p99_of_objective_relearned"] = max(case["change"]["p99_of_objective"] for case in report["cases"])
    report["idle_p50_ratio"] = report["idle"]["ratio"]["median"]
    report["targets"] = {
        "throughput_ratio": ">= 0.9",
        "p99_of_objective": "<= 1",
        "p99_of_objective_relearned": f"<= 1 from {RELEARN_S:g} s after the change on",
        "idle_p50_ratio": "<= 1.1",
    }
    return report


def _case(service: Service, client: Client, case: Case, seconds: float, repetitions: int) -> dict[str, Any]:
    swept = {}
    for size in case.sizes:
        service.deploy(SERVABLES / "linear", max_batch_size=size)
        swept[size] = undisturbed(lambda: _throughput(client, case, seconds / 5))
    best = max(swept, key=lambda size: swept[size])

    def pair() -> tuple[float, float]:
        service.deploy(SERVABLES / "linear", max_batch_size=best)
        fixed = _throughput(client, case, seconds / 3)
        service.deploy(SERVABLES / "linear", objective_ms=case.objective_ms)
        _throughput(client, case, SETTLE_S)
        return _throughput(client, case, seconds / 3), fixed

    pairs = [undisturbed(pair) for _ in range(repetitions)]
    rate = 0.8 * median(adaptive for adaptive, _ in pairs)
    sent = undisturbed(lambda: _open(client, rate, seconds + SETTLE_S, lambda due_s: case.parameters))
    steady = [each for each in sent if each.due_s >= SETTLE_S]
    return {
        "model_ms": case.parameters,
        "objective_ms": case.objective_ms,
        "sweep_rps": {str(size): round(found, 1) for size, found in swept.items()},
        "best_size": best,
        "adaptive_rps": round(median(adaptive for adaptive, _ in pairs), 1),
        "throughput_ratio": summary([adaptive / fixed for adaptive, fixed in pairs]),
        "rate": round(rate, 1),
        **_latency(steady, case),
        "change": undisturbed(lambda: _change(client, case, rate, seconds)),
    }


def _change(client: Client, case: Case, rate: float, seconds: float) -> dict[str, Any]:
    """The model becomes twice as slow while requests come."""
    slower = Case(2 * case.fixed_ms, 2 * case.sample_ms, case.objective_ms)
    change_s = SETTLE_S + seconds / 2
    sent = _open(
        client,
        0.6 / 0.8 * rate * _best(slower) / _best(case),
        change_s + RELEARN_S + seconds,
        lambda due_s: (slower if due_s >= change_s else case).parameters,
    )
    during = [each for each in sent if change_s <= each.due_s < change_s + RELEARN_S]
    after = [each for each in sent if each.due_s >= change_s + RELEARN_S]
    return {"while_learning": _latency(during, case), **_latency(after, case), "timeline": _timeline(sent, change_s)}


def _timeline(sent: list[Sent], change_s: float) -> dict[str, list[float]]:
    """The latencies of those that were due in each half second, counted from the change; for the figures."""
    bins: dict[int, list[float]] = {}
    for each in sent:
        bins.setdefault(math.floor((each.due_s - change_s) / BIN_S), []).append(each.latency_s * 1000)
    ordered = sorted(bins.items())
    return {
        "from_s": [number * BIN_S for number, _ in ordered],
        "p50_ms": [round(percentile(latencies, 0.5), 2) for _, latencies in ordered],
        "p99_ms": [round(percentile(latencies, 0.99), 2) for _, latencies in ordered],
    }


def _best(case: Case) -> float:
    return max(size / case.batch_ms(size) for size in case.sizes or (1,))


def _throughput(client: Client, case: Case, seconds: float) -> float:
    """Answers a second, with many requests outstanding."""
    until = time.perf_counter() + seconds
    began, answers = time.perf_counter(), 0

    def items() -> Any:
        while time.perf_counter() < until:
            yield X

    for _ in client.map("linear.predict", items(), in_flight=OUTSTANDING, parameters=case.parameters):
        answers += 1
    return answers / (time.perf_counter() - began)


def _open(client: Client, rate: float, seconds: float, parameters: Any) -> list[Sent]:
    return poisson(client, "linear.predict", X, rate=rate, seconds=seconds, parameters=parameters, seed=1)


def _latency(sent: list[Sent], case: Case) -> dict[str, Any]:
    latencies = [each.latency_s * 1000 for each in sent]
    windows: dict[int, list[float]] = {}
    for each in sent:
        windows.setdefault(int(each.due_s / WINDOW_S), []).append(each.latency_s * 1000)
    p99_ms = median(percentile(each, 0.99) for each in windows.values())
    return {
        "requests": len(sent),
        "errors": sum(bool(each.error) for each in sent),
        "p50_ms": round(percentile(latencies, 0.5), 2),
        "p99_ms": round(p99_ms, 2),
        "p99_ms_of_all": round(percentile(latencies, 0.99), 2),
        "p99_of_objective": round(p99_ms / case.objective_ms, 3),
    }


def _idle(service: Service, client: Client, calls: int, repetitions: int) -> dict[str, Any]:
    """Calls one after the other, in turns with batches on and off."""

    def p50_us(most: int | None) -> float:
        service.deploy(SERVABLES / "linear", max_batch_size=most)
        latencies = []
        for _ in range(calls):
            began = time.perf_counter()
            client.infer("linear.predict", X, parameters={"fixed_ms": 0.0, "sample_ms": 0.0})
            latencies.append(time.perf_counter() - began)
        return median(latencies) * 1e6

    pairs = [undisturbed(lambda: (p50_us(None), p50_us(1))) for _ in range(2 * repetitions)]
    on, off = zip(*pairs, strict=True)
    ratios = [with_batches / without for with_batches, without in pairs]
    return {"on": round(median(on), 1), "off": round(median(off), 1), "ratio": summary(ratios)}
