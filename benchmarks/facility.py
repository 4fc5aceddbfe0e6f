"""A real Slurm, the box of the facility tests, with a daemon on its login node, for the time of a benchmark."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np

from hpcserve.client.sync import Client
from hpcserve.wire import admin
from tests.facility.box.cluster import Box
from tests.facility.box.files import LOGIN
from tests.facility.service import Facility, status
from tests.facility.slurm_cluster import SlurmCluster

__all__ = ["LOGIN", "TIMED", "Box", "Facility", "Feed", "Watch", "answered", "daemon", "job_start", "status"]

TIMED = Path(__file__).parent / "servables" / "timed"
TIMEOUT_S = 120.0
LOOK_S = 0.05


@contextlib.contextmanager
def daemon(box: Box, name: str, **tables: Any) -> Iterator[tuple[Facility, Client]]:
    """A daemon with these tables of its site file, and a client; no job of it is left at the end."""
    facility = Facility(SlurmCluster(box), name, **tables)
    try:
        facility.up()
        with facility.client() as client:
            yield facility, client
    finally:
        facility.end()


def job_start(box: Box, job: str) -> tuple[float, float]:
    """When a job started, in seconds since 1970: as slurmctld's log has it, and as the job's record has it.

    The record has whole seconds, so it may be up to one too early. The log has milliseconds, of the moment right after
    slurmctld has given the job its nodes, before it sends it there.
    """
    log = (box.directory / "log" / "slurmctld.log").read_text()
    found = re.findall(rf"^\[(\S+)\] sched\S* (?:Allocate|_start_job: Started) JobId={job} ", log, re.MULTILINE)
    if not found:
        raise LookupError(f"slurmctld's log does not say when job {job} started")
    shown = box.run(LOGIN, ["scontrol", "show", "job", job, "--oneliner"]).stdout
    (recorded,) = re.findall(r" StartTime=(\S+)", shown)
    return datetime.fromisoformat(found[-1]).timestamp(), datetime.fromisoformat(recorded).timestamp()


class Feed:
    """Keeps so many requests of ``timed`` under way, until it is left; then waits for all.

    Args:
        client: Whose requests they are.
        log: Where the servable notes its runs.
        outstanding: So many.
        sleep_s: How long each runs.
    """

    def __init__(self, client: Client, log: Path, *, outstanding: int, sleep_s: float) -> None:
        self.futures: list[Future[Any]] = []
        self.answered_s: list[float] = []
        self._client = client
        self._parameters = {"log": str(log), "sleep_s": sleep_s}
        self._room = threading.Semaphore(outstanding)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._room.release()
        self._thread.join()

    def in_flight(self) -> list[Future[Any]]:
        """What is not answered yet."""
        return [each for each in self.futures if not each.done()]

    def wait(self) -> None:
        """Waits until all are answered, or have failed."""
        for each in self.futures:
            each.exception(TIMEOUT_S)

    def _send(self) -> None:
        while True:
            self._room.acquire()
            if self._over.is_set():
                return
            n = np.int64(len(self.futures))
            future = self._client.submit("timed.again", n, parameters=self._parameters, timeout_s=TIMEOUT_S)
            self.futures.append(future)
            future.add_done_callback(self._note)

    def _note(self, _future: Future[Any]) -> None:
        self.answered_s.append(time.monotonic())
        self._room.release()


def answered(futures: list[Future[Any]]) -> int:
    """How many of these have the answer that they should."""
    return sum(each.done() and each.exception() is None for each in futures)


class Watch:
    """Looks at the status now and then: for how long was no replica ready, and which pilots were there?"""

    def __init__(self, client: Client) -> None:
        self.gap_s = 0.0
        self.looks = 0
        self.jobs: set[str] = set()
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        last_s = time.monotonic()
        while not self._over.wait(LOOK_S):
            seen = self._client.call("status", admin.AskStatus(), admin.Status)
            now_s = time.monotonic()
            if not any(each.state == "ready" for one in seen.deployments for each in one.replicas):
                self.gap_s += now_s - last_s
            last_s = now_s
            self.looks += 1
            self.jobs |= {each.job for each in seen.pilots if each.job}
