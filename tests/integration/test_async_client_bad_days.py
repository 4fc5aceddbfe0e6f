"""The client for asyncio while it connects: who may look at its calls, and what happens when it is closed then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from hpcserve import AsyncClient
from hpcserve.client.engine import Engine
from hpcserve.client.services import Service
from hpcserve.errors import Cancelled
from hpcserve.types import Counter
from tests.integration.daemon_tree import EXAMPLES, Daemon

ONE = np.ones(1, np.float32)
PATIENCE_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def echo(daemon: Daemon) -> Iterator[None]:
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        daemon.replica_pids(client, "echo")
        yield


def test_what_is_outstanding_is_read_by_the_loop_that_changes_it(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[int] = []
    real = Engine.waits_for

    def waits_for(engine: Engine) -> tuple[int, tuple[Counter, ...]]:
        readers.append(threading.get_ident())
        return real(engine)

    async def play() -> None:
        async with AsyncClient(Service(daemon.record)) as client:
            assert (await client.infer("echo.echo", ONE))["x"] == 1

    monkeypatch.setattr(Engine, "waits_for", waits_for)
    with daemon.environment():
        asyncio.run(play())
    assert readers == [threading.get_ident()]


def test_closing_while_it_connects_again_is_no_hang(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dialling thread asks the loop at just the time when the loop waits for the thread's end."""
    real = Engine.waits_for

    async def play() -> None:
        closing: list[asyncio.Task[None]] = []
        client = AsyncClient(Service(daemon.record))
        await client.__aenter__()

        def waits_for(engine: Engine) -> tuple[int, tuple[Counter, ...]]:
            if engine is client._engine:
                closing.append(asyncio.ensure_future(client.close()))
            return real(engine)

        monkeypatch.setattr(Engine, "waits_for", waits_for)
        client._keeper._drop()
        client._keeper._changed.set()
        pending = client.submit("echo.echo", ONE)
        with pytest.raises(Cancelled):
            await asyncio.wait_for(asyncio.shield(pending), PATIENCE_S)
        await asyncio.wait_for(closing[0], PATIENCE_S)
        assert client._keeper._context.closed

    with daemon.environment():
        asyncio.run(play())
