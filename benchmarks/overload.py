"""Three times as many requests as can be answered: what is answered all the same, how soon the others are refused.

The model sleeps for ``a + b·n``, so that neither it nor the sender of the requests takes the processor from the broker.
Its batches have a fixed size; its capacity is measured with a full queue. Then requests come at random (an open loop,
from one session on the wire that sends nothing again):

- at half of the capacity: what latency is normally;
- at three times the capacity: *goodput* is the results that come meanwhile; a *refusal* is an answer ``overloaded``,
  from the moment at which its request was due;
- at half of it again: *normal again* is the first moment from which on, for two seconds, the 99th percentile of the
  latency is at most a quarter above what it was before.

The broker's memory (PSS) is looked at meanwhile.

For priorities a model with longer batches is asked for three times its capacity, and beside that for a few requests of
a higher priority: their 99th percentile as a multiple of a batch's time. The least that anybody can promise is two: the
batch that runs, and one's own. Since requests come at any moment of a batch the percentile would be 1.99 if messages
took no time; the batches are long so that their milliseconds do not decide. A batch's time is that from one to the next
while there is always a queue: what its replica does between them is part of it, as it is of what others wait for.
"""

from __future__ import annotations

import threading
from statistics import median
from typing import Any, NamedTuple, Self

import numpy as np

from benchmarks.machine import undisturbed
from benchmarks.open_loop import percentile
from benchmarks.processes import pss_bytes
from benchmarks.raw_client import Answer, RawClient, Stream
from benchmarks.service import SERVABLES, Service, running
from hpcserve.client.call import Inference

X = np.ones((1, 16), np.float32)
SITE = "[budgets]\nbroker_bytes = 67108864\n"
BUDGET_BYTES = 64 << 20
MAX_QUEUE_S = 0.5
TIMEOUT_S = 10.0
TIMES = 3.0
CALM = 0.5
AGAIN_S, STEP_S, TOLERANCE = 2.0, 0.1, 1.25
URGENT_RATE = 10.0


class Model(NamedTuple):
    """A batch of ``size`` samples takes ``fixed_ms + size * sample_ms``."""

    fixed_ms: float
    sample_ms: float
    size: int

    @property
    def batch_ms(self) -> float:
        """How long a full batch takes."""
        return self.fixed_ms + self.size * self.sample_ms

    @property
    def most_per_s(self) -> float:
        """What full batches one after the other would come to."""
        return self.size / self.batch_ms * 1000

    def call(self, priority: int = 0) -> Inference:
        """A request of one sample."""
        parameters = {"fixed_ms": self.fixed_ms, "sample_ms": self.sample_ms}
        return Inference("linear.predict", X, parameters=parameters, timeout_s=None, priority=priority, own=True)


QUICK_BATCHES = Model(20.0, 1.0, 16)
LONG_BATCHES = Model(800.0, 12.5, 16)


def run(*, seconds: float = 60.0, calm_s: float = 15.0, urgent_s: float = 60.0) -> dict[str, Any]:
    """Measures both.

    Args:
        seconds: How long the overload lasts.
        calm_s: How long requests come at half of the capacity, before and after.
        urgent_s: How long the priorities are measured.
    """
    with running(SITE) as service:
        report = undisturbed(lambda: _overload(service, QUICK_BATCHES, seconds, calm_s))
        report["priority"] = undisturbed(lambda: _priority(service, LONG_BATCHES, urgent_s))
    report["targets"] = {
        "goodput_of_capacity": ">= 0.9",
        "refusal_p99_ms": "< 50",
        "memory_of_budget": "<= 1",
        "normal_again_s": "< 2",
        "priority.p99_of_batch": "<= 2",
    }
    return report


def _overload(service: Service, model: Model, seconds: float, calm_s: float) -> dict[str, Any]:
    service.deploy(SERVABLES / "linear", max_batch_size=model.size, max_queue_s=MAX_QUEUE_S)
    end_s = calm_s + seconds
    client = RawClient()
    try:
        capacity = _capacity(client, model, min(calm_s, 5.0))
        call = model.call()

        def rate(now_s: float) -> float:
            return capacity * (TIMES if calm_s <= now_s < end_s else CALM)

        with Memory(service.pids["broker"]) as memory:
            found = client.open_loop([Stream(call, rate, TIMEOUT_S)], end_s + calm_s)
    finally:
        client.close()
    during = [each for each in found if calm_s <= each.due_s < end_s]
    refused = [each for each in during if each.error == "overloaded"]
    good = [each for each in found if not each.error and calm_s <= each.answered_s < end_s]
    before = [each.latency_ms for each in found if each.due_s < calm_s and not each.error]
    normal_ms = percentile(before, 0.99)
    return {
        "model_ms": model._asdict(),
        "max_queue_s": MAX_QUEUE_S,
        "capacity_rps": round(capacity, 1),
        "offered_rps": round(len(during) / seconds, 1),
        "goodput_of_capacity": round(len(good) / seconds / capacity, 3),
        "refused": len(refused),
        "other_errors": sum(each.error not in ("", "overloaded") for each in found),
        "refusal_p50_ms": round(percentile([each.latency_ms for each in refused], 0.5), 2) if refused else None,
        "refusal_p99_ms": round(percentile([each.latency_ms for each in refused], 0.99), 2) if refused else None,
        "refused_after_waiting": sum(each.latency_ms >= MAX_QUEUE_S * 900 for each in refused),
        "answered_p99_ms": round(percentile([each.latency_ms for each in during if not each.error], 0.99), 1),
        "calm_p99_ms": round(normal_ms, 2),
        "normal_again_s": _normal_again_s([each for each in found if each.due_s >= end_s], end_s, normal_ms),
        "broker_mib_before": round(memory.before / 2**20, 1),
        "broker_mib_most": round(memory.most / 2**20, 1),
        "budget_mib": BUDGET_BYTES >> 20,
        "memory_of_budget": round((memory.most - memory.before) / BUDGET_BYTES, 3),
    }


def _capacity(client: RawClient, model: Model, seconds: float) -> float:
    """Results a second while there is always a queue."""
    settle_s = seconds / 3
    found = client.open_loop([Stream(model.call(), lambda now_s: 1.5 * model.most_per_s, TIMEOUT_S)], seconds)
    good = [each for each in found if not each.error and settle_s <= each.answered_s < seconds]
    return len(good) / (seconds - settle_s)


def _normal_again_s(after: list[Answer], end_s: float, normal_ms: float) -> float | None:
    """When latency is as it was before; None: not while it was looked at."""
    last_s = max(each.due_s for each in after) - min(AGAIN_S, (max(each.due_s for each in after) - end_s) / 2)
    begin_s = end_s
    while begin_s <= last_s:
        here = [each for each in after if begin_s <= each.due_s < begin_s + AGAIN_S]
        latencies = [each.latency_ms for each in here if not each.error]
        if latencies and len(latencies) == len(here) and percentile(latencies, 0.99) <= TOLERANCE * normal_ms:
            return round(begin_s - end_s, 1)
        begin_s += STEP_S
    return None


def _priority(service: Service, model: Model, seconds: float) -> dict[str, Any]:
    service.deploy(SERVABLES / "linear", max_batch_size=model.size, max_queue_s=2 * model.batch_ms / 1000)
    settle_s = seconds / 10
    flood = Stream(model.call(), lambda now_s: TIMES * model.most_per_s, TIMEOUT_S)
    urgent = Stream(model.call(1), lambda now_s: URGENT_RATE, TIMEOUT_S)
    client = RawClient()
    try:
        found = client.open_loop([flood, urgent], settle_s + seconds)
    finally:
        client.close()
    end_s = settle_s + seconds
    late = [each for each in found if each.due_s >= settle_s]
    high = [each for each in late if each.priority > 0]
    low = [each.latency_ms for each in late if each.priority == 0 and not each.error]
    answered = sum(not each.error and settle_s <= each.answered_s < end_s for each in found)
    batch_ms = seconds * 1000 * model.size / answered
    latencies = [each.latency_ms for each in high if not each.error]
    return {
        "model_ms": model._asdict(),
        "batch_ms": round(batch_ms, 2),
        "run_ms": round(median(each.run_ms for each in late if not each.error), 2),
        "requests": len(high),
        "errors": len(high) - len(latencies),
        "p50_of_batch": round(percentile(latencies, 0.5) / batch_ms, 3),
        "p99_of_batch": round(percentile(latencies, 0.99) / batch_ms, 3),
        "low_p50_of_batch": round(percentile(low, 0.5) / batch_ms, 3),
    }


class Memory:
    """The memory of a process, looked at once a second: ``before``, and the ``most`` since."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.before = self.most = pss_bytes(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(1.0):
            self.most = max(self.most, pss_bytes(self._pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self.most = max(self.most, pss_bytes(self._pid))
