"""While a client connects: deadlines are kept, it may be closed, and it does not try again and again in vain."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np
import pytest
import zmq

from hpcserve import AsyncClient, Client
from hpcserve.client import aio_keeper, ways
from hpcserve.client.dial import dial as real_dial
from hpcserve.client.pauses import Pauses
from hpcserve.client.services import Service
from hpcserve.errors import Cancelled, DeadlineExceeded, ServiceUnavailable
from hpcserve.wire.record import decode_record, encode_record
from tests.integration.daemon_tree import Daemon, until

ONE = np.ones(1, np.float32)
DEADLINE_S, LATE_S = 0.3, 12.0
STEP_S = 15.0
"""So long a step of a dial takes when nobody answers."""
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _long_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "ANSWER_S", STEP_S)


class Moving:
    """A service record that says first where the daemon is, and then where somebody listens who never answers."""

    def __init__(self, daemon: Daemon, place: Path, silent: socket.socket) -> None:
        self.path = place / "service.json"
        self.path.write_bytes(daemon.record.read_bytes())
        self._silent = silent

    def move(self) -> None:
        record = decode_record(self.path.read_bytes(), str(self.path))
        address = f"tcp://127.0.0.1:{self._silent.getsockname()[1]}"
        self.path.write_bytes(encode_record(msgspec.structs.replace(record, admission=(address,))))

    def wait_dialled(self) -> socket.socket:
        self._silent.settimeout(PATIENCE_S)
        return self._silent.accept()[0]


@pytest.fixture
def moving(daemon: Daemon, tmp_path: Path) -> Iterator[Moving]:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield Moving(daemon, tmp_path, silent)


def lose(client: Client) -> None:
    with client._shared.lock:
        client._shared.engine.lost()
    client._shared.wanted.set()


def test_the_deadline_of_a_call_that_nobody_waits_for(daemon: Daemon, moving: Moving) -> None:
    with daemon.environment(), Client(Service(moving.path)) as client:
        moving.move()
        lose(client)
        with moving.wait_dialled():
            began, ended = time.monotonic(), []
            future = client.submit("echo", ONE, timeout_s=DEADLINE_S)
            future.add_done_callback(lambda _: ended.append(time.monotonic()))
            until(lambda: ended, "the call ended")
            assert ended[0] - began < DEADLINE_S + LATE_S
            assert isinstance(future.exception(), DeadlineExceeded)


def test_a_callback_may_close_the_client_that_dials(daemon: Daemon, moving: Moving) -> None:
    with daemon.environment():
        client = Client(Service(moving.path))
        moving.move()
        lose(client)
        with moving.wait_dialled():
            closed: list[bool] = []
            other = client.submit("echo", ONE, timeout_s=600)
            future = client.submit("echo", ONE, timeout_s=DEADLINE_S)

            def close(_: object) -> None:
                client.close()
                closed.append(client._context.closed)

            future.add_done_callback(close)
            until(lambda: closed, "the client is closed")
        assert closed == [True]
        assert isinstance(other.exception(PATIENCE_S), Cancelled)
        client._keeper._thread.join(PATIENCE_S)
        assert not client._keeper._thread.is_alive()


def test_what_was_dialled_for_a_client_that_is_closed_meanwhile_is_closed_too(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyzmq warns of a socket that is forgotten open."""
    has_dialled, may_return = threading.Event(), threading.Event()
    with daemon.environment(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        client = Client(Service(daemon.record))
        dialled = client._keeper._dialled

        def held_up() -> object:
            try:
                return dialled()
            finally:
                has_dialled.set()
                may_return.wait(PATIENCE_S)

        monkeypatch.setattr(client._keeper, "_dialled", held_up)
        lose(client)
        assert has_dialled.wait(PATIENCE_S)
        closing = threading.Thread(target=client.close)
        closing.start()
        until(lambda: client._shared.closed, "the client is being closed")
        may_return.set()
        closing.join(PATIENCE_S)
        assert client._context.closed
        gc.collect()
    assert [str(each.message) for each in warned] == []


def test_the_deadline_of_a_call_in_asyncio(daemon: Daemon, moving: Moving) -> None:
    async def play() -> None:
        async with AsyncClient(Service(moving.path)) as client:
            moving.move()
            client._keeper._drop()
            client._keeper._changed.set()
            with await asyncio.to_thread(moving.wait_dialled):
                began = time.monotonic()
                with pytest.raises(DeadlineExceeded):
                    await client.infer("echo", ONE, timeout_s=DEADLINE_S)
                assert time.monotonic() - began < DEADLINE_S + LATE_S

    with daemon.environment():
        asyncio.run(play())


class Failing:
    """A dial that fails as nobody has foreseen, and when it was tried."""

    def __init__(self) -> None:
        self.tries: list[float] = []

    def __call__(self) -> NoReturn:
        self.tries.append(time.monotonic())
        raise zmq.ZMQError(errno.EMFILE)

    async def in_asyncio(self) -> NoReturn:
        self()

    def check(self) -> None:
        """A constant pause of 0.05 s would be a storm; doubled six times it has at least 1.6 s."""
        assert self.tries[-1] - self.tries[-2] > 1.0


def test_a_failure_that_lasts_is_met_less_and_less_often(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing()
    with daemon.environment(), Client(Service(daemon.record)) as client:
        monkeypatch.setattr(client._keeper, "_dialled", failing)
        lose(client)
        while len(failing.tries) < 8:
            with pytest.raises(ServiceUnavailable, match="Too many open files"):
                client.infer("echo", ONE, timeout_s=PATIENCE_S)
    failing.check()


def test_a_failure_that_lasts_is_met_less_and_less_often_in_asyncio(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing()

    async def play() -> None:
        async with AsyncClient(Service(daemon.record)) as client:
            monkeypatch.setattr(client._keeper, "_dial", failing.in_asyncio)
            client._keeper._drop()
            client._keeper._changed.set()
            while len(failing.tries) < 8:
                with pytest.raises(ServiceUnavailable, match="Too many open files"):
                    await client.infer("echo", ONE, timeout_s=PATIENCE_S)

    with daemon.environment():
        asyncio.run(play())
    failing.check()


def test_a_deadline_is_kept_in_the_pause_after_such_a_failure(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing()
    with daemon.environment(), Client(Service(daemon.record)) as client:
        monkeypatch.setattr(client._keeper, "_dialled", failing)
        lose(client)
        while len(failing.tries) < 8:
            client.submit("echo", ONE, timeout_s=PATIENCE_S).exception(PATIENCE_S)
        ended: list[float] = []
        began = time.monotonic()
        client.submit("echo", ONE, timeout_s=DEADLINE_S).add_done_callback(lambda _: ended.append(time.monotonic()))
        until(lambda: ended, "the call ended")
        assert ended[0] - began < DEADLINE_S + LATE_S


def test_a_deadline_is_kept_in_the_pause_after_such_a_failure_in_asyncio(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing()

    async def play() -> None:
        async with AsyncClient(Service(daemon.record)) as client:
            monkeypatch.setattr(client._keeper, "_dial", failing.in_asyncio)
            client._keeper._drop()
            client._keeper._changed.set()
            while len(failing.tries) < 8:
                with pytest.raises(ServiceUnavailable):
                    await client.infer("echo", ONE, timeout_s=PATIENCE_S)
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await client.infer("echo", ONE, timeout_s=DEADLINE_S)
            assert time.monotonic() - began < DEADLINE_S + LATE_S

    with daemon.environment():
        asyncio.run(play())


def test_a_deadline_is_kept_in_the_pause_between_dials_in_asyncio(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def play() -> None:
        async def nobody() -> NoReturn:
            nonlocal tries
            tries += 1
            raise ServiceUnavailable("nobody answers")

        async with AsyncClient(Service(daemon.record)) as client:
            monkeypatch.setattr(client._keeper, "_dial", nobody)
            monkeypatch.setattr(Pauses, "after_failure_s", lambda _: PATIENCE_S)
            client._keeper._drop()
            client._keeper._changed.set()
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await client.infer("echo", ONE, timeout_s=DEADLINE_S)
            assert time.monotonic() - began < DEADLINE_S + LATE_S
            assert tries == 1, "it was in the pause"

    with daemon.environment():
        asyncio.run(play())


def test_a_loop_that_is_busy_while_its_client_connects_is_told_what_to_do(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_busy, has_dialled = threading.Event(), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def dial(*arguments: object, **named: object) -> object:
        loops[0].call_soon_threadsafe(keep_busy)
        assert is_busy.wait(PATIENCE_S)
        try:
            return real_dial(*arguments, **named)  # type: ignore[arg-type]  # as they come
        finally:
            has_dialled.set()

    def keep_busy() -> None:
        is_busy.set()
        has_dialled.wait(PATIENCE_S)

    async def play() -> None:
        client = AsyncClient(Service(daemon.record))
        loops.append(asyncio.get_running_loop())
        with pytest.raises(ServiceUnavailable, match=r"busy for 0.2 s .* asyncio.to_thread"):
            await client.__aenter__()
        assert client._keeper._context.closed

    monkeypatch.setattr(aio_keeper, "dial", dial)
    monkeypatch.setattr(aio_keeper, "ASKED_S", 0.2)
    with daemon.environment():
        asyncio.run(play())
