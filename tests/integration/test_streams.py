"""Streams through a real daemon: what comes, in what order, how fast, and how they end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.services import Service
from hpcserve.errors import Cancelled, DeadlineExceeded, HpcserveError, InvalidInput, InvalidOutput, ServableError
from tests.integration.daemon_tree import SERVABLES, Daemon, let_replicas_be_told, status, until

OVERRIDES = {"recovery": {"session_linger_s": 1.0, "hang_grace_s": 1.0}, "budgets": {"outbox_bytes": 4 << 20}}


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, SERVABLES / "streams")
        daemon.replica_pids(made, "streams")
        yield made


def ys(items: Iterator[Any]) -> list[int]:
    return [int(each["y"]) for each in items]


def read_until_error(items: Iterator[Any]) -> tuple[list[int], HpcserveError]:
    """What comes before the error, and the error."""
    found: list[int] = []
    with pytest.raises(HpcserveError) as error:
        found.extend(int(each["y"]) for each in items)
    return found, error.value


def made(log: Path) -> int:
    """How far a slow producer is."""
    return int(log.read_text() or -1) if log.exists() else -1


def is_past(log: Path, number: int) -> bool:
    return made(log) >= number


def ended(log: Path) -> bool:
    """Whether the producer's ``finally`` has run."""
    return log.with_name(log.name + ".ended").exists()


def waiting(client: Client) -> int:
    return sum(each.waiting for one in status(client).deployments for each in one.replicas)


# --- what comes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 5000])
def test_every_item_comes_once_in_order(client: Client, n: int) -> None:
    assert ys(client.stream("streams.count", np.int64(n))) == list(range(n))


@pytest.mark.parametrize("window", [1, 2, 7])
def test_a_small_window_loses_nothing(client: Client, window: int) -> None:
    assert ys(client.stream("streams.count", np.int64(300), window=window)) == list(range(300))


def test_an_item_has_all_the_outputs_and_says_who_made_it(client: Client) -> None:
    items = list(client.stream("streams.two_outputs", np.int64(4)))
    assert [each["a"].tolist() for each in items] == [[], [1.0], [2.0, 2.0], [3.0, 3.0, 3.0]]
    assert [each["b"].item() for each in items] == [b"0", b"1", b"2", b"3"]
    assert len({(each.replica, each.version) for each in items}) == 1
    assert items[0].replica
    assert all(0 <= each.run_s < 10 for each in items)


def test_large_items_come_in_frames_of_their_own(client: Client) -> None:
    items = client.stream("streams.large", np.int64(20), parameters={"bytes": 1 << 20})
    assert [(len(each["x"]), int(each["x"][-1])) for each in items] == [(1 << 20, n) for n in range(20)]


def test_an_item_is_as_it_was_when_it_was_yielded(client: Client) -> None:
    items = client.stream("streams.same_array", np.zeros(2, np.int64))
    assert [each["x"].tolist() for each in items] == [[n, n] for n in range(10)]


def test_a_method_may_return_an_iterator(client: Client) -> None:
    assert ys(client.stream("streams.returned", np.int64(1))) == [1, 2]
    with pytest.raises(InvalidOutput, match="returned a list; return an iterator"):
        next(client.stream("streams.returned", np.int64(0)))


# --- what is refused ----------------------------------------------------------------------------------------


def test_each_kind_of_method_names_the_right_call(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"'count' yields a stream: call it by stream\(\)"):
        client.infer("streams.count", np.int64(3))
    with pytest.raises(InvalidInput, match=r"'plain' returns one answer: call it by infer\(\)"):
        next(client.stream("streams.plain", np.int64(3)))


@pytest.mark.parametrize("window", [0, -1, 1 << 20, 2.5, None])
def test_a_window_that_is_none_is_refused(client: Client, window: Any) -> None:
    with pytest.raises(InvalidInput, match="window is "):
        client.stream("streams.count", np.int64(3), window=window)


def test_wrong_inputs_are_refused_before_anything_runs(client: Client) -> None:
    with pytest.raises(InvalidInput, match="float32"):
        next(client.stream("streams.count", np.float32(3)))
    with pytest.raises(InvalidInput, match="takes no parameters"):
        next(client.stream("streams.count", np.int64(3), parameters={"a": 1}))


# --- how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 3, 3000])
def test_an_error_comes_after_the_items_before_it(client: Client, n: int) -> None:
    found, error = read_until_error(client.stream("streams.raises", np.int64(n)))
    assert found == list(range(n))
    assert isinstance(error, ServableError)
    assert f"no more after {n}" in error.message
    assert "ValueError" in (error.remote_traceback or "")


def test_after_the_error_there_is_nothing(client: Client) -> None:
    items = client.stream("streams.raises", np.int64(0))
    read_until_error(items)
    assert list(items) == []


def test_an_item_of_the_wrong_shape_ends_the_stream(client: Client) -> None:
    found, error = read_until_error(client.stream("streams.wrong_shape", np.int64(2)))
    assert found == [0, 1]
    assert isinstance(error, InvalidOutput)


def test_an_item_that_is_too_large_ends_the_stream(client: Client) -> None:
    with pytest.raises(InvalidOutput, match="yield less at a time"):
        next(client.stream("streams.large", np.int64(1), parameters={"bytes": 5 << 20}))


def test_its_deadline_ends_it_between_items(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    items = client.stream("streams.slow", np.int64(10**9), parameters={"log": str(log), "pause_s": 0.05}, timeout_s=4.0)
    found, error = read_until_error(items)
    assert found == list(range(len(found)))
    assert len(found) >= 3
    assert isinstance(error, DeadlineExceeded)
    until(lambda: ended(log), "the producer has ended")


def test_one_that_never_yields_is_ended_by_its_deadline(client: Client, daemon: Daemon) -> None:
    (pid,) = daemon.replica_pids(client, "streams")
    with pytest.raises(DeadlineExceeded):
        next(client.stream("streams.never", np.int64(1), timeout_s=4.0))
    until(lambda: daemon.replica_pids(client, "streams") not in ([pid], []), "the replica was replaced")
    assert ys(client.stream("streams.count", np.int64(3))) == [0, 1, 2]


# --- slow readers, and those that are gone --------------------------------------------------------------------


def test_a_slow_reader_slows_its_producer(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    items = client.stream("streams.slow", np.int64(10**9), parameters={"log": str(log)}, window=10)
    with items:
        for taken in range(1, 40):
            assert int(next(items)["y"]) == taken - 1
            until(partial(is_past, log, taken + 3), "the producer is ahead by half a window, nearly")
            assert made(log) <= taken + 10
    until(lambda: ended(log), "the producer has ended")


def test_a_reader_that_stops_holds_up_nobody(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with client.stream("streams.slow", np.int64(10**9), parameters={"log": str(log)}, window=5) as items:
        assert int(next(items)["y"]) == 0
        until(lambda: made(log) >= 4, "the window is full")
        assert ys(client.stream("streams.count", np.int64(2000))) == list(range(2000))
        assert int(client.infer("streams.plain", np.int64(1))["y"]) == 2
        assert made(log) <= 5
        assert [int(next(items)["y"]) for _ in range(20)] == list(range(1, 21))


def test_many_stopped_readers_leave_room_for_others(client: Client) -> None:
    stopped = [client.stream("streams.large", np.int64(100), parameters={"bytes": 1 << 19}) for _ in range(12)]
    try:
        for each in stopped:
            next(each)
        assert int(client.infer("streams.plain", np.int64(1))["y"]) == 2
        for each in stopped[3:]:
            each.close()
        assert [sum(1 for _ in each) for each in stopped[:3]] == [99, 99, 99]
    finally:
        for each in stopped:
            each.close()


@pytest.mark.parametrize("how", ["close", "drop", "leave"])
def test_a_gone_reader_ends_its_producer(client: Client, tmp_path: Path, how: str) -> None:
    log = tmp_path / "log"
    items = client.stream("streams.slow", np.int64(10**9), parameters={"log": str(log)}, window=3)
    next(items)
    if how == "close":
        items.close()
        items.close()
        assert list(items) == []
    elif how == "leave":
        with items:
            pass
    del items
    gc.collect()
    until(lambda: ended(log), "the producer has ended")
    until(lambda: waiting(client) == 0, "nothing is left at the replica")


def test_a_producer_may_ask_whether_it_was_cancelled(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with client.stream("streams.until_cancelled", np.int64(1), parameters={"log": str(log)}) as items:
        next(items)
    until(log.exists, "it was told")


def test_a_stream_may_be_closed_before_it_begins(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    busy = client.stream("streams.slow", np.int64(3), parameters={"log": str(tmp_path / "busy"), "gate": str(gate)})
    next(busy)
    until((tmp_path / "gate.waits").exists, "the next item is being made, and nothing else begins meanwhile")
    log = tmp_path / "log"
    client.stream("streams.slow", np.int64(10), parameters={"log": str(log)}).close()
    assert waiting(client), "the broker has read both"
    let_replicas_be_told()
    gate.touch()
    assert ys(busy) == [1, 2]
    until(lambda: waiting(client) == 0, "nothing is left at the replica")
    assert not log.exists()


@pytest.mark.usefixtures("client")
def test_a_client_that_is_closed_ends_its_streams(daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    other = daemon.client()
    items = other.stream("streams.slow", np.int64(10**9), parameters={"log": str(log)}, window=3)
    next(items)
    other.close()
    until(lambda: ended(log), "the producer has ended")
    with pytest.raises(Cancelled):
        ys(items)


@pytest.mark.usefixtures("client")
def test_a_client_that_is_killed_ends_its_streams(daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = os.fork()
    if pid == 0:
        try:
            mine = daemon.client()
            next(mine.stream("streams.slow", np.int64(10**9), parameters={"log": str(log)}, window=3))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    until(lambda: ended(log), "the producer has ended")


# --- many at once ---------------------------------------------------------------------------------------------


def test_streams_and_calls_take_turns_on_one_replica(client: Client, tmp_path: Path) -> None:
    first = client.stream("streams.slow", np.int64(50), parameters={"log": str(tmp_path / "1"), "pause_s": 0.002})
    second = client.stream("streams.count", np.int64(10**9), window=50)
    got_first, got_second = list[int](), list[int]()
    answers = list[int]()
    with second:
        for _ in range(50):
            got_first.append(int(next(first)["y"]))
            got_second.append(int(next(second)["y"]))
            answers.append(int(client.infer("streams.plain", np.int64(len(answers)))["y"]))
    assert got_first == got_second == list(range(50))
    assert answers == list(range(1, 51))
    assert list(first) == []


def test_threads_read_streams_of_one_client(client: Client) -> None:
    found: dict[int, list[int]] = {}

    def read(n: int) -> None:
        found[n] = ys(client.stream("streams.count", np.int64(n)))

    threads = [threading.Thread(target=read, args=(n,)) for n in range(500, 520)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {n: list(range(n)) for n in range(500, 520)}


def test_more_streams_than_a_replica_has_credit_for(client: Client) -> None:
    streams = [client.stream("streams.count", np.int64(20), window=2) for _ in range(300)]
    firsts = [int(next(each)["y"]) for each in streams]
    assert firsts == [0] * 300
    assert all(ys(each) == list(range(1, 20)) for each in streams)
    until(lambda: waiting(client) == 0, "nothing is left at the replica")


def test_nothing_is_held_after_the_end(client: Client) -> None:
    assert len(ys(client.stream("streams.count", np.int64(3000)))) == 3000
    until(lambda: status(client).held_bytes == 0, "the broker holds nothing")


# --- asyncio ----------------------------------------------------------------------------------------------------


def run_async(daemon: Daemon, body: Any) -> None:
    async def main() -> None:
        with daemon.environment():
            client = AsyncClient(Service(daemon.record))
        async with client:
            await body(client)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.usefixtures("client")
def test_async_items_come_in_order(daemon: Daemon) -> None:
    async def body(mine: AsyncClient) -> None:
        for n in (0, 1, 3000):
            assert [int(each["y"]) async for each in mine.stream("streams.count", np.int64(n))] == list(range(n))
        answer = await mine.infer("streams.plain", np.int64(1))
        assert int(answer["y"]) == 2

    run_async(daemon, body)


@pytest.mark.usefixtures("client")
def test_async_streams_beside_each_other(daemon: Daemon) -> None:
    async def body(mine: AsyncClient) -> None:
        async def read(n: int) -> list[int]:
            return [int(each["y"]) async for each in mine.stream("streams.count", np.int64(n), window=5)]

        assert await asyncio.gather(*(read(n) for n in range(20))) == [list(range(n)) for n in range(20)]

    run_async(daemon, body)


@pytest.mark.usefixtures("client")
def test_async_errors_and_ends(daemon: Daemon, tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("closed", "left", "dropped")]

    async def body(mine: AsyncClient) -> None:
        items = mine.stream("streams.raises", np.int64(3))
        assert [int((await anext(items))["y"]) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ServableError, match="no more after 3"):
            await anext(items)
        with pytest.raises(DeadlineExceeded):
            await anext(mine.stream("streams.never", np.int64(0), timeout_s=0.3))
        streams = [mine.stream("streams.slow", np.int64(10**9), parameters={"log": str(log)}, window=3) for log in logs]
        for each in streams:
            await anext(each)
        await streams[0].aclose()
        async with streams[1]:
            pass
        del streams, each
        gc.collect()
        until_s = time.monotonic() + 20
        while not all(map(ended, logs)) and time.monotonic() < until_s:
            await asyncio.sleep(0.02)
        assert all(map(ended, logs))

    run_async(daemon, body)
