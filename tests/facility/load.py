"""Requests without a pause, what became of each, and what was seen of the pilots meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpcserve import Client
from tests.facility.clusters import Cluster
from tests.facility.service import Facility, status
from tests.integration.daemon_tree import Daemon

TIMEOUT_S = 200.0
LOOK_S = 0.2
ROUNDED_S = 1.0
"""Schedulers have whole seconds."""


@dataclass(kw_only=True)
class Seen:
    """What a load saw.

    Attributes:
        answered: How many requests were.
        jobs: The pilots' jobs, by replica.
        longest_s: Of a request, from its call to its answer.
    """

    answered: int = 0
    jobs: dict[str, str] = field(default_factory=dict)
    longest_s: float = 0.0


class Load:
    """Keeps so many requests of servable ``spans`` in flight.

    Args:
        facility: Whose servable writes down what it runs.
        client: By which they are sent.
        endpoint: Of the servable.
        sleeps_s: How long each takes, one after the other and again from the first.
    """

    def __init__(self, facility: Facility | Daemon, client: Client, endpoint: str, *sleeps_s: float) -> None:
        self.log = facility.home / "spans"
        self._client = client
        self._endpoint = endpoint
        self._sleeps_s = sleeps_s
        self._sent = 0
        self._open: dict[Future[Any], tuple[int, float]] = {}
        self.seen = Seen()

    @property
    def outstanding(self) -> int:
        """So many are not answered yet."""
        return len(self._open)

    def send(self) -> None:
        """One more request."""
        parameters = {"log": str(self.log), "sleep_s": self._sleeps_s[self._sent % len(self._sleeps_s)]}
        future = self._client.submit(
            f"{self._endpoint}.run", np.int64(self._sent), parameters=parameters, timeout_s=TIMEOUT_S
        )
        self._open[future] = (self._sent, time.monotonic())
        self._sent += 1

    def top_up(self, in_flight: int) -> None:
        """So many in flight, then for a moment at most until one of them is answered."""
        while len(self._open) < in_flight:
            self.send()
        self._settle()

    def keep(self, in_flight: int, for_s: float) -> Seen:
        """So many in flight for so long, then until the last of them is answered; each answer has to be right."""
        until_s = time.monotonic() + for_s
        looked_s = time.monotonic()
        while (more := time.monotonic() < until_s) or self._open:
            self.top_up(in_flight if more else 0)
            if time.monotonic() - looked_s >= LOOK_S:
                self._look()
                looked_s = time.monotonic()
        self._look()
        assert self.seen.answered == self._sent
        return self.seen

    def _settle(self) -> None:
        done, _ = wait(self._open, LOOK_S, FIRST_COMPLETED)
        for future in done:
            number, sent_s = self._open.pop(future)
            assert int(future.result(0)["n"]) == number
            self.seen.answered += 1
            self.seen.longest_s = max(self.seen.longest_s, time.monotonic() - sent_s)

    def _look(self) -> None:
        told = status(self._client)
        jobs = {pilot.pilot: pilot.job for pilot in told.pilots}
        replicas = [each for deployment in told.deployments for each in deployment.replicas]
        self.seen.jobs |= {each.replica: jobs[each.pilot] for each in replicas if each.pilot in jobs}


def runs(log: Path) -> dict[str, list[tuple[int, str, float]]]:
    """What ``spans`` wrote: the number, the replica and the time of each beginning and of each end."""
    found: dict[str, list[tuple[int, str, float]]] = {"begin": [], "end": []}
    for line in log.read_text().splitlines():
        word, number, replica, at_s = line.split()
        found[word].append((int(number), replica, float(at_s)))
    return found


def twice(log: Path) -> list[int]:
    """The requests that were begun more than once."""
    return [number for number, count in Counter(n for n, _, _ in runs(log)["begin"]).items() if count > 1]


def cut_off(log: Path) -> set[tuple[int, str]]:
    """The runs, by number and replica, that were begun and did not end."""
    told = runs(log)
    return {(n, replica) for n, replica, _ in told["begin"]} - {(n, replica) for n, replica, _ in told["end"]}


def handed_over(cluster: Cluster, seen: Seen) -> int:
    """Whenever the job of a pilot that served began, another one was still there; returns how many did so.

    By the order of what happened: how long a pilot takes until it serves, and requests wait meanwhile, depends on the
    machine, and is measured by ``benchmarks pilots``.
    """
    began_s = {job: cluster.began_s(job) for job in set(seen.jobs.values())}
    first, *others = sorted(began_s, key=began_s.__getitem__)
    until_s = cluster.ended_s(first)
    for job in others:
        if until_s is None:
            break
        assert began_s[job] <= until_s + ROUNDED_S
        ended_s = cluster.ended_s(job)
        until_s = None if ended_s is None else max(until_s, ended_s)
    return len(others)


def none_ran_past_its_pilot(cluster: Cluster, load: Load, seen: Seen) -> int:
    """Each request was run once and to its end, before its pilot's; returns how many of the pilots have ended."""
    assert cut_off(load.log) == set()
    assert twice(load.log) == []
    ends_s = {job: cluster.ended_s(job) for job in set(seen.jobs.values())}
    late = [
        (n, replica)
        for n, replica, at_s in runs(load.log)["end"]
        if (end_s := ends_s[seen.jobs[replica]]) is not None and at_s > end_s + ROUNDED_S
    ]
    assert late == []
    return sum(end_s is not None for end_s in ends_s.values())
