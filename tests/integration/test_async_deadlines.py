"""What the client for asyncio owes a call when nobody answers, and when connecting fails in an unforeseen way."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from hpcserve import AsyncClient
from hpcserve.client.services import Service
from hpcserve.errors import DeadlineExceeded, ServiceUnavailable
from tests.integration.daemon_tree import EXAMPLES, Daemon

ONE = np.ones(1, np.float32)
PATIENCE_S = 20.0


def test_a_deadline_is_kept_while_other_calls_are_made(daemon: Daemon) -> None:
    async def play() -> None:
        async with AsyncClient(Service(daemon.record)) as client:
            await client.infer("echo.echo", ONE)
            os.kill(broker, signal.SIGSTOP)  # nobody answers, nor hangs up
            late = client.submit("echo.echo", ONE, timeout_s=0.3)
            others = []
            until_s = time.monotonic() + PATIENCE_S
            while not late.done() and time.monotonic() < until_s:
                others.append(client.submit("echo.echo", ONE, timeout_s=600))
                await asyncio.sleep(0.05)
            assert late.done()
            with pytest.raises(DeadlineExceeded):
                late.result()
            os.kill(broker, signal.SIGCONT)
            await asyncio.gather(*others)

    with daemon.environment():
        with daemon.client() as client:
            daemon.deploy(client, EXAMPLES / "echo")
            daemon.replica_pids(client, "echo")
        broker = daemon.pid_of("broker")
        try:
            asyncio.run(play())
        finally:
            os.kill(broker, signal.SIGCONT)


def test_an_unforeseen_failure_to_connect_ends_the_calls_and_not_the_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor may be left, for instance: what fails is told, and the next try may succeed."""
    monkeypatch.setenv("HPCSERVE_HOME", str(tmp_path))
    tries = []

    async def play() -> None:
        client = AsyncClient(Service(tmp_path / "service.json"))

        async def dial() -> None:
            tries.append(time.monotonic())
            if len(tries) > 1:
                raise zmq.ZMQError(errno.EMFILE)

        monkeypatch.setattr(client._keeper, "_dial", dial)
        async with client:
            for _ in range(2):
                with pytest.raises(ServiceUnavailable, match="Too many open files"):
                    await asyncio.wait_for(client.infer("echo", ONE, timeout_s=600), PATIENCE_S)

    asyncio.run(play())
    assert len(tries) > 2
