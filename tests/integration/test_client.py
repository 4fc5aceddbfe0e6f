"""The clients against a running daemon: one call, futures, map, many threads, deadlines, a reconnect in mid-run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.outputs import Outputs
from hpcserve.client.services import Service
from hpcserve.errors import Cancelled, DeadlineExceeded, InvalidInput, ServiceUnavailable
from hpcserve.wire import admin
from hpcserve.wire.frames import ENCLOSED_BYTES
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, let_replicas_be_told, status, until

OVERRIDES = {"recovery": {"session_linger_s": 10.0}}


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, EXAMPLES / "echo")
        daemon.deploy(made, SERVABLES / "tally", replicas=2)
        daemon.replica_pids(made, "tally", at_least=2)
        yield made


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Path]:
    """Where calls wait for a file ``all``, which is there at the end of the test at the latest."""
    made = tmp_path / "gates"
    made.mkdir()
    yield made
    (made / "all").touch()


def numbers(n: float) -> np.ndarray:
    return np.array([n], np.float32)


def ask(client: Client, n: int, log: Path, gates: Path | None = None) -> concurrent.futures.Future[Outputs]:
    return client.submit("tally.again", np.int64(n), parameters=logged(log, gates))


def logged(log: Path, gates: Path | None = None) -> dict[str, str]:
    """Of a call that writes itself down, and waits where there are gates."""
    return {"log": str(log)} | ({"gates": str(gates)} if gates is not None else {})


# --- one call ---------------------------------------------------------------------------------------------


def test_an_answer_has_its_outputs_by_name_and_who_gave_them(client: Client) -> None:
    outputs = client.infer("echo.echo", {"x": numbers(3)})
    assert outputs["x"] == 3
    assert outputs["x"].dtype == np.float32
    assert outputs.replica.startswith("echo-")
    assert len(outputs.version) == 64


def test_a_large_tensor_comes_back_unchanged(client: Client) -> None:
    blob = np.random.default_rng(1).integers(0, 256, 20_000_000, np.uint8)
    assert np.array_equal(client.infer("echo.blob", blob)["blob"], blob)


@pytest.mark.parametrize("size_bytes", [0, 1, ENCLOSED_BYTES, ENCLOSED_BYTES + 1, 16384, 16385])
def test_a_tensor_of_any_size_comes_back_unchanged(client: Client, size_bytes: int) -> None:
    """Inside the header, in a frame that is copied, in one that is not."""
    blob = np.arange(size_bytes, dtype=np.uint8)
    for _ in range(2):
        answer = client.infer("echo.blob", blob)["blob"]
        assert np.array_equal(answer, blob)
        answer += 1  # the caller's own
    assert np.array_equal(blob, np.arange(size_bytes, dtype=np.uint8))


def test_an_input_may_be_changed_as_soon_as_submit_returns(client: Client) -> None:
    blob = np.ones(5_000_000, np.uint8)
    future = client.submit("echo.blob", blob)
    blob[:] = 2
    assert future.result(20)["blob"].min() == future.result()["blob"].max() == 1


# --- futures ----------------------------------------------------------------------------------------------


def test_futures_complete_in_the_order_of_their_answers(client: Client, tmp_path: Path, gates: Path) -> None:
    slow = ask(client, 1, tmp_path / "log", gates)
    fast = ask(client, 2, tmp_path / "log")
    completed = concurrent.futures.as_completed([slow, fast], timeout=20)
    assert next(completed) is fast
    (gates / "all").touch()
    assert next(completed) is slow
    assert [int(each.result()["n"]) for each in (slow, fast)] == [1, 2]


def test_a_callback_runs_once_and_may_call_the_client(client: Client) -> None:
    seen: list[float] = []
    done = threading.Event()

    def again(future: concurrent.futures.Future[Outputs]) -> None:
        seen.append(float(future.result()["x"][0]))
        if seen[-1] < 3:
            client.submit("echo.echo", numbers(seen[-1] + 1)).add_done_callback(again)
        else:
            done.set()

    client.submit("echo.echo", numbers(1)).add_done_callback(again)
    assert done.wait(20)
    assert seen == [1, 2, 3]


def test_result_waits_no_longer_than_it_is_told(client: Client, tmp_path: Path, gates: Path) -> None:
    future = ask(client, 1, tmp_path / "log", gates)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.1)
    assert not future.done()
    (gates / "all").touch()
    assert future.result(20)["n"] == 1


def test_a_cancelled_request_that_has_not_begun_never_runs(client: Client, tmp_path: Path, gates: Path) -> None:
    log = tmp_path / "log"
    running = [ask(client, n, log, gates) for n in (1, 2)]
    waiting = [ask(client, n, log) for n in range(10, 20)]
    assert all(each.cancel() for each in waiting)
    for each in waiting:
        assert each.cancelled()
        with pytest.raises(concurrent.futures.CancelledError):
            each.result(0)
    assert status(client).answered, "the broker has read it"
    let_replicas_be_told()
    (gates / "all").touch()
    assert [int(each.result(20)["n"]) for each in running] == [1, 2]
    assert ask(client, 3, log).result(20)["n"] == 3
    ran = {int(line.split()[0]) for line in log.read_text().splitlines()}
    assert ran == {1, 2, 3}


def test_an_answered_future_cannot_be_cancelled(client: Client) -> None:
    future = client.submit("echo.echo", numbers(1))
    assert future.result(20)["x"] == 1
    assert not future.cancel()


# --- map --------------------------------------------------------------------------------------------------


def test_map_keeps_the_order_and_reads_no_further_ahead_than_it_may(client: Client, tmp_path: Path) -> None:
    read: list[int] = []

    def items() -> Iterator[dict[str, np.int64]]:
        for n in range(200):
            read.append(n)
            yield {"n": np.int64(n)}

    got = []
    for outputs in client.map("tally.again", items(), in_flight=7, parameters={"log": str(tmp_path / "log")}):
        got.append(int(outputs["n"]))
        assert len(read) - len(got) <= 7
    assert got == list(range(200))


def test_map_over_endless_items_can_be_left(client: Client) -> None:
    outputs = client.map("echo.echo", (numbers(n) for n in itertools.count()), in_flight=16)
    assert [float(next(outputs)["x"][0]) for _ in range(50)] == list(range(50))
    outputs.close()
    assert client.infer("echo.echo", numbers(1))["x"] == 1


def test_map_raises_an_error_in_its_items_turn(client: Client) -> None:
    items = [numbers(0), numbers(1), np.zeros((2, 2), np.float32), numbers(3)]
    outputs = client.map("echo.echo", items)
    assert next(outputs)["x"] == 0
    assert next(outputs)["x"] == 1
    with pytest.raises(InvalidInput, match="shape"):
        next(outputs)


# --- threads ----------------------------------------------------------------------------------------------


def test_many_threads_share_one_client(client: Client) -> None:
    wrong: list[str] = []

    def work(thread: int) -> None:
        for n in range(100):
            x = numbers(1000 * thread + n)
            answer = client.submit("echo.echo", x).result(30) if n % 3 == 0 else client.infer("echo.echo", x)
            if answer["x"] != x:
                wrong.append(f"{x} became {answer['x']}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


# --- deadlines --------------------------------------------------------------------------------------------


def test_a_deadline_is_kept_while_the_request_runs_and_while_it_waits(
    client: Client, tmp_path: Path, gates: Path
) -> None:
    log = tmp_path / "log"
    busy = [ask(client, n, log, gates) for n in (1, 2)]
    late = client.submit("tally.again", np.int64(3), parameters={"log": str(log)}, timeout_s=0.3)
    with pytest.raises(DeadlineExceeded):
        late.result(20)
    assert not busy[1].done()
    with pytest.raises(DeadlineExceeded):
        client.infer("tally.again", np.int64(4), parameters={"log": str(log)}, timeout_s=0.2)
    assert status(client).answered, "the broker has read it"
    let_replicas_be_told()
    (gates / "all").touch()
    assert [int(each.result(20)["n"]) for each in busy] == [1, 2]
    assert ask(client, 5, log).result(20)["n"] == 5
    assert not {"3", "4"} & {line.split()[0] for line in log.read_text().splitlines()}


def test_a_deadline_that_is_over_at_once_is_no_hang(client: Client, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.infer(
            "tally.again", np.int64(1), parameters={"log": str(tmp_path / "log"), "sleep_s": 30.0}, timeout_s=1e-6
        )
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("timeout_s", [0, 0.0, 1e-9])
def test_what_has_no_time_at_all_is_not_sent(client: Client, tmp_path: Path, timeout_s: float) -> None:
    log = tmp_path / "log"
    parameters = {"log": str(log)}
    for _ in range(20):
        with pytest.raises(DeadlineExceeded):
            client.infer("tally.again", np.int64(1), parameters=parameters, timeout_s=timeout_s)
    with pytest.raises(DeadlineExceeded):
        next(iter(client.stream("tally.again", np.int64(2), parameters=parameters, timeout_s=timeout_s)))
    assert ask(client, 3, log).result(20)["n"] == 3
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["3"]


def test_the_background_thread_rests_only_while_nothing_is_waited_for(
    client: Client, tmp_path: Path, gates: Path
) -> None:
    """While it rests it looks at no deadline."""
    until(lambda: client._shared.keeper_rests, "it has nothing to do")
    future = ask(client, 1, tmp_path / "log", gates)
    assert not client._shared.keeper_rests
    (gates / "all").touch()
    until(future.done, "it has read the answer")
    until(lambda: client._shared.keeper_rests, "it has nothing to do again")


# --- reconnect --------------------------------------------------------------------------------------------


def test_a_restart_of_the_broker_is_not_noticed_in_mid_run(client: Client, daemon: Daemon) -> None:
    items = (numbers(n) for n in range(3000))
    got = []
    for outputs in client.map("echo.echo", items, in_flight=64):
        got.append(float(outputs["x"][0]))
        if len(got) == 500:
            daemon.kill("broker")
    assert got == list(range(3000))


def test_idle_clients_come_back_after_a_restart(client: Client, daemon: Daemon) -> None:
    with daemon.client() as other:
        daemon.kill("broker")
        assert other.infer("echo.echo", numbers(2), timeout_s=20)["x"] == 2
        assert client.infer("echo.echo", numbers(3), timeout_s=20)["x"] == 3


# --- the end ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("client")
def test_close_ends_what_is_under_way_and_may_be_called_twice(daemon: Daemon, tmp_path: Path, gates: Path) -> None:
    other = daemon.client()
    future = ask(other, 1, tmp_path / "log", gates)
    other.close()
    other.close()
    with pytest.raises(Cancelled):
        future.result(5)
    with pytest.raises(InvalidInput, match="closed"):
        other.infer("echo.echo", numbers(1))


@pytest.mark.usefixtures("client")
def test_leaving_the_block_fails_what_was_submitted_in_it_at_once(daemon: Daemon, tmp_path: Path, gates: Path) -> None:
    with daemon.client() as other:
        future = ask(other, 1, tmp_path / "log", gates)
    assert future.done()
    with pytest.raises(Cancelled, match="wait for answers before you close it"):
        future.result(0)


def test_a_closed_session_is_gone_at_once(client: Client, daemon: Daemon) -> None:
    other = daemon.client()
    assert other.infer("echo.echo", numbers(1))["x"] == 1
    until(lambda: status(client).sessions == 2, "both clients have sessions")
    other.close()
    until(lambda: status(client).sessions == 1, "the session has ended, and not after its linger", within_s=6.0)


@pytest.mark.usefixtures("client")
def test_a_callback_may_close_its_client_whose_descriptors_are_others_then(
    daemon: Daemon, tmp_path: Path, gates: Path
) -> None:
    pipes: list[tuple[int, int]] = []
    other = daemon.client()

    def close(_: object) -> None:
        other.close()
        pipes.extend(os.pipe() for _ in range(16))
        for _, write in pipes:
            os.write(write, b"ours")

    keeper = other._keeper._thread
    ask(other, 1, tmp_path / "log", gates).add_done_callback(close)
    (gates / "all").touch()
    keeper.join(10)
    assert not keeper.is_alive()
    assert [os.read(read, 100) for read, _ in pipes] == [b"ours"] * 16
    for read, write in pipes:
        os.close(read)
        os.close(write)


@pytest.mark.usefixtures("client")
def test_clients_leave_no_thread_and_no_descriptor(daemon: Daemon) -> None:
    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    with daemon.client() as other:
        other.infer("echo.echo", numbers(1))
    before = held()
    for _ in range(3):
        with daemon.client() as other:
            other.infer("echo.echo", numbers(1))
    assert held() == before


def test_without_a_daemon_a_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="hpcserve up"):
        Client(Service(tmp_path / "service.json"))


# --- asyncio ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("client")
def test_the_asynchronous_client_does_the_same(daemon: Daemon, tmp_path: Path, gates: Path) -> None:
    held = logged(tmp_path / "log", gates)

    async def main() -> None:
        async with AsyncClient(Service(daemon.record)) as other:
            assert (await other.infer("echo.echo", numbers(1)))["x"] == 1
            many = [other.submit("echo.echo", numbers(n)) for n in range(300)]
            assert [float(each["x"][0]) for each in await asyncio.gather(*many)] == list(range(300))
            got = [float(each["x"][0]) async for each in other.map("echo.echo", (numbers(n) for n in range(100)))]
            assert got == list(range(100))
            with pytest.raises(DeadlineExceeded):
                await other.infer("tally.again", np.int64(1), parameters=held, timeout_s=0.2)
            with pytest.raises(InvalidInput):
                await other.infer("echo.echo", np.zeros((1, 1), np.float32))

    with daemon.environment():
        asyncio.run(main())


@pytest.mark.usefixtures("client")
def test_a_cancelled_task_takes_its_request_back(daemon: Daemon, tmp_path: Path, gates: Path) -> None:
    log = tmp_path / "log"

    async def main() -> None:
        async with AsyncClient(Service(daemon.record)) as other:
            parameters = logged(log, gates)
            busy = [other.submit("tally.again", np.int64(n), parameters=parameters) for n in (1, 2)]
            late = other.submit("tally.again", np.int64(3), parameters=parameters)
            await asyncio.sleep(0)
            late.cancel()
            other.submit("tally.again", np.int64(5), parameters=parameters).cancel()
            await other.call("status", admin.AskStatus(), admin.Status)  # then the broker has read it
            await asyncio.to_thread(let_replicas_be_told)
            (gates / "all").touch()
            await asyncio.gather(*busy)
            await other.infer("tally.again", np.int64(4), parameters={"log": str(log)})

    with daemon.environment():
        asyncio.run(main())
    assert {line.split()[0] for line in log.read_text().splitlines()} == {"1", "2", "4"}


@pytest.mark.usefixtures("client")
def test_an_input_may_be_changed_as_soon_as_the_asynchronous_submit_returns(daemon: Daemon) -> None:
    async def main() -> None:
        async with AsyncClient(Service(daemon.record)) as other:
            x = numbers(1)
            future = other.submit("echo.echo", x)
            x[:] = 2
            assert (await future)["x"] == 1

    with daemon.environment():
        asyncio.run(main())


@pytest.mark.usefixtures("client")
def test_leaving_the_asynchronous_block_fails_what_was_submitted_in_it_at_once(
    daemon: Daemon, tmp_path: Path, gates: Path
) -> None:
    parameters = logged(tmp_path / "log", gates)

    async def main() -> None:
        async with AsyncClient(Service(daemon.record)) as other:
            task = asyncio.create_task(other.infer("tally.again", np.int64(1), parameters=parameters))
            await asyncio.sleep(0)
            future = other.submit("tally.again", np.int64(2), parameters=parameters)
        assert future.done()
        for each in (future, task):
            with pytest.raises(Cancelled, match="wait for answers before you close it"):
                await each
        with pytest.raises(InvalidInput, match="closed"):
            other.submit("echo.echo", numbers(1))

    with daemon.environment():
        asyncio.run(main())


@pytest.mark.usefixtures("client")
def test_leaving_right_after_a_submit_is_no_hang(daemon: Daemon) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), AsyncClient(Service(daemon.record)) as other:
            await other.infer("echo.echo", numbers(1))
            while not other._keeper._changed._waiters:  # until the background task sleeps
                await asyncio.sleep(0)
            future = other.submit("echo.echo", numbers(2))
        assert future.done()
        future.exception()

    with daemon.environment():
        asyncio.run(main())


@pytest.mark.usefixtures("client")
def test_the_asynchronous_client_comes_back_after_a_restart(daemon: Daemon) -> None:
    async def main() -> None:
        async with AsyncClient(Service(daemon.record)) as other:
            got = []
            async for each in other.map("echo.echo", (numbers(n) for n in range(1000)), in_flight=32):
                got.append(float(each["x"][0]))
                if len(got) == 200:
                    daemon.kill("broker")
            assert got == list(range(1000))

    with daemon.environment():
        asyncio.run(main())
