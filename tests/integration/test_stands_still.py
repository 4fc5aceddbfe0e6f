"""A daemon stands still with its connections up, and another one takes its place: everybody goes over to that.

Both are on this host. So that the one which is stopped cannot be seen to live, as if its host were another, its lease
is rewritten, and which processes it has is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.outputs import Outputs
from hpcserve.client.services import Service
from hpcserve.config import Recovery, runtime_dir
from hpcserve.core.lease import Lease
from hpcserve.daemon import processes
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import SERVABLES, Daemon, is_alive, status, until
from tests.integration.sshd import sshd_in

DEADLINE_S = 300.0
WITHIN_S = 60.0
RUN_S = 1.0
PARTS = ("supervisor", "broker", "controller", "admission")


@pytest.fixture
def daemon(new_daemon: NewDaemon) -> Daemon:
    """Its peers reach it by TCP, as those on other hosts do, and are waited for as long as everywhere."""
    own = {name: getattr(Recovery(), name) for name in ("recovery_grace_s", "session_linger_s", "unreachable_s")}
    return new_daemon(network={"unix_sockets": False}, recovery=own).up()


@pytest.fixture
def stopped(daemon: Daemon) -> Iterator[Callable[[], list[int]]]:
    """Stops the whole daemon as a frozen host would; gives its processes."""
    pids: list[int] = []

    def stop() -> list[int]:
        pids.extend(daemon.pid_of(part) for part in PARTS)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        (lease,) = daemon.shared.glob("lease-*.json")
        held = msgspec.json.decode(lease.read_bytes(), type=Lease)
        lease.write_bytes(msgspec.json.encode(msgspec.structs.replace(held, host="another", boot="another")))
        (runtime_dir(daemon.state) / processes.FILE).unlink()
        return pids

    yield stop
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(600)
def test_clients_and_replicas_go_over_and_the_old_one_ends_when_it_goes_on(
    daemon: Daemon, stopped: Callable[[], list[int]], tmp_path: Path
) -> None:
    log = daemon.home / "spans"
    parameters = {"log": str(log), "sleep_s": RUN_S}
    rival = daemon.rival()
    with contextlib.ExitStack() as stack:
        stack.callback(rival.end)
        client = stack.enter_context(daemon.client(timeout_s=DEADLINE_S))
        endpoint = daemon.deploy(client, SERVABLES / "spans")
        replicas = daemon.replica_pids(client, endpoint)
        old = status(client)
        futures: list[Future[Outputs]] = []
        futures += [client.submit(f"{endpoint}.run", np.int64(n), parameters=parameters) for n in range(2)]
        other = stack.enter_context(in_a_loop(daemon))
        futures += [other.submit(f"{endpoint}.run", np.int64(n), parameters) for n in (2, 3)]
        by_ssh = stack.enter_context(from_a_laptop(daemon, tmp_path))
        futures.append(by_ssh.submit(f"{endpoint}.run", np.int64(4), parameters=parameters))
        until(lambda: len(runs(log)) > 1, "requests are run")
        pids = stopped()
        # To nobody who hears them.
        futures.append(client.submit(f"{endpoint}.run", np.int64(5), parameters=parameters))
        futures.append(other.submit(f"{endpoint}.run", np.int64(6), parameters))
        futures.append(by_ssh.submit(f"{endpoint}.run", np.int64(7), parameters=parameters))
        rival.up()
        assert [int(each.result(WITHIN_S)["n"]) for each in futures] == [*range(8)], "long before the deadlines"
        new = status(client)
        assert new.epoch > old.epoch
        assert daemon.replica_pids(client, endpoint) == replicas, "they have gone over, and are the same"
        record = daemon.record.read_bytes()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # the first that goes on may have killed the others
                os.kill(pid, signal.SIGCONT)
        until(lambda: not any(map(is_alive, pids)), "the old one ends", WITHIN_S)
        assert daemon.record.read_bytes() == record
        assert int(client.infer(f"{endpoint}.run", np.int64(8), parameters=parameters)["n"]) == 8
        assert status(client).epoch == new.epoch
        assert daemon.replica_pids(client, endpoint) == replicas
        assert sorted(runs(log)) == [*range(9)], "each ran once"


def runs(log: Path) -> list[int]:
    """The requests that were begun, in this order."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith("begin")]


@contextlib.contextmanager
def from_a_laptop(daemon: Daemon, place: Path) -> Iterator[Client]:
    """A client that comes by ssh."""
    with sshd_in(place / "sshd", daemon.variables) as sshd, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPCSERVE_HOME", str(sshd.home_with_key(daemon.home / "client.key")))
        patch.setenv("PATH", sshd.path)
        with Client(sshd.address(), timeout_s=DEADLINE_S) as client:
            yield client


class InALoop:
    """An AsyncClient whose loop runs in another thread."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def submit(self, endpoint: str, n: np.int64, parameters: dict[str, Any]) -> Future[Outputs]:
        """As that of a Client."""
        call = self._client.infer(endpoint, n, parameters=parameters)
        return asyncio.run_coroutine_threadsafe(call, self._loop)


@contextlib.contextmanager
def in_a_loop(daemon: Daemon) -> Iterator[InALoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with daemon.environment():
            client = AsyncClient(Service(daemon.record), timeout_s=DEADLINE_S)
        asyncio.run_coroutine_threadsafe(client.__aenter__(), loop).result(WITHIN_S)
        yield InALoop(client, loop)
        asyncio.run_coroutine_threadsafe(client.close(), loop).result(WITHIN_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
