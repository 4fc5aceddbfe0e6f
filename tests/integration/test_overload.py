"""A deployment that is asked for more than it can do: who is refused, who comes back, and what status tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.services import Service
from hpcserve.errors import DeadlineExceeded, InvalidInput, Overloaded
from hpcserve.wire import admin
from tests.integration.daemon_tree import SERVABLES, Daemon, deployment, until

LINEAR = Path(__file__).resolve().parents[2] / "benchmarks" / "servables" / "linear"
X = np.ones((1, 16), np.float32)
RUN_S = 0.02
SLOW = {"fixed_ms": RUN_S * 1000, "sample_ms": 0.0}
MAX_QUEUE_S = 1.0
MOST_QUEUED = MAX_QUEUE_S / RUN_S


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    """Of a deployment that answers fifty requests a second, and has a queue for a second."""
    with daemon.client() as made:
        daemon.deploy(made, LINEAR)
        wanted = admin.Deploy(servable="linear", max_batch_size=1, max_queue_s=MAX_QUEUE_S, max_queue_bytes=1 << 20)
        made.call("deploy", wanted, admin.Deployed)
        daemon.replica_pids(made, "linear")
        yield made


def known_rate(client: Client, endpoint: str = "linear") -> None:
    """Has requests wait for so long that the rate at which they are served is known."""
    for _ in client.map(endpoint, [X] * 50, in_flight=45, parameters=SLOW):
        pass


def test_what_is_refused_comes_back_by_itself_and_succeeds(client: Client) -> None:
    known_rate(client)
    before = deployment(client, "linear").refused
    began = time.monotonic()
    futures = [client.submit("linear", X, parameters=SLOW) for _ in range(150)]
    until(lambda: deployment(client, "linear").refused > before, "some are refused")
    view = deployment(client, "linear")
    assert 0 < view.queued <= 2 * MOST_QUEUED
    assert view.queued_bytes > 0
    assert view.wait_s is None or view.wait_s < 30 * MAX_QUEUE_S
    assert [float(future.result(60)["y"][0]) for future in futures] == [16.0] * 150
    assert time.monotonic() - began >= 150 * RUN_S


def test_who_has_no_time_is_refused_at_once_and_told_when_to_come_back(daemon: Daemon, client: Client) -> None:
    wanted = admin.Deploy(servable="linear", endpoint="patient", max_batch_size=1, max_queue_s=60.0)
    client.call("deploy", wanted, admin.Deployed)
    daemon.replica_pids(client, "patient")
    known_rate(client, "patient")
    flood = [client.submit("patient", X, parameters=SLOW) for _ in range(600)]
    with pytest.raises(Overloaded, match=r"its deadline is in [1-4](\.\d)? s") as refused:
        client.infer("patient", X, parameters=SLOW, timeout_s=4.0)
    assert refused.value.retry_after_s is not None
    assert 0.1 <= refused.value.retry_after_s < 60.0
    assert not any(future.done() for future in flood[-100:]), "it was refused at once"
    for future in flood:
        future.cancel()


def test_a_second_client_waits_for_its_turn_and_not_for_a_flood(daemon: Daemon, client: Client) -> None:
    known_rate(client)
    with daemon.client() as second:
        second.infer("linear", X, parameters=SLOW)
        flood = [client.submit("linear", X, parameters=SLOW) for _ in range(150)]
        for _ in range(5):
            second.infer("linear", X, parameters=SLOW)
    assert not all(future.done() for future in flood)
    for future in flood:
        future.result(60)


def test_requests_that_waited_too_long_before_the_rate_was_known_come_back_too(daemon: Daemon, client: Client) -> None:
    wanted = admin.Deploy(servable="linear", endpoint="fresh", max_batch_size=1, max_queue_s=0.2)
    client.call("deploy", wanted, admin.Deployed)
    daemon.replica_pids(client, "fresh")
    futures = [client.submit("fresh", X, parameters=SLOW) for _ in range(60)]
    until(lambda: deployment(client, "fresh").refused >= 10, "the last have waited for too long")
    for future in futures:
        future.result(60)
    view = deployment(client, "fresh")
    assert sum(each.answered for each in view.replicas) == 60


def test_the_async_client_comes_back_too(daemon: Daemon, client: Client) -> None:
    known_rate(client)
    before = deployment(client, "linear").refused

    async def flood() -> int:
        with daemon.environment():
            opened = AsyncClient(Service(daemon.record))
        async with opened:
            answers = opened.map("linear", [X] * 150, in_flight=150, parameters=SLOW)
            return len([each async for each in answers])

    assert asyncio.run(flood()) == 150
    assert deployment(client, "linear").refused > before


def test_deadlines_that_pass_before_anything_runs_are_counted(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    daemon.deploy(client, SERVABLES / "tally")
    (tmp_path / "gates").mkdir()
    held = {"log": str(tmp_path / "log"), "gates": str(tmp_path / "gates")}
    busy = client.submit("tally.again", np.int64(0), parameters=held)
    until((tmp_path / "log").exists, "it runs")
    late = [
        client.submit("tally.again", np.int64(1), parameters=held, timeout_s=0.2 + number / 100) for number in range(20)
    ]
    for future in late:
        assert isinstance(future.exception(10), DeadlineExceeded)
    (tmp_path / "gates" / "all").touch()
    busy.result(30)
    until(lambda: deployment(client, "tally").expired > 0, "they are counted")


def test_the_bounds_are_shown_and_checked(client: Client) -> None:
    view = deployment(client, "linear")
    assert (view.max_queue_s, view.max_queue_bytes) == (MAX_QUEUE_S, 1 << 20)
    for wrong in ({"max_queue_s": 0.0}, {"max_queue_s": float("inf")}, {"max_queue_bytes": 0}):
        with pytest.raises(InvalidInput, match=f"{next(iter(wrong))} is "):
            client.call("deploy", admin.Deploy(servable="linear", **wrong), admin.Deployed)
    assert deployment(client, "linear").max_queue_s == MAX_QUEUE_S


def test_bytes_that_do_not_fit_come_back_too(daemon: Daemon, client: Client) -> None:
    row_bytes = X.nbytes * 1000
    wanted = admin.Deploy(servable="linear", endpoint="narrow", max_batch_size=1, max_queue_bytes=3 * row_bytes)
    client.call("deploy", wanted, admin.Deployed)
    daemon.replica_pids(client, "narrow")
    x = np.ones((1000, 16), np.float32)
    futures = [client.submit("narrow", x, parameters=SLOW) for _ in range(20)]
    until(lambda: deployment(client, "narrow").refused > 0, "some do not fit")
    assert deployment(client, "narrow").queued_bytes <= 3 * row_bytes
    for future in futures:
        future.result(60)
