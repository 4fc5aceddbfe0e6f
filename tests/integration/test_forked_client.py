"""A client does not cross a fork: the child is told so at once, and the parent's client goes on."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.services import Service
from hpcserve.errors import HpcserveError, InvalidInput, ServiceUnavailable
from hpcserve.wire import admin
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, Daemon, status

# From Python 3.12 on: what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

ONE = np.ones(1, np.float32)
TOLD = "make a Client in each process"
AT_ONCE_S = 10.0


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, EXAMPLES / "echo")
        daemon.deploy(made, SERVABLES / "tally")
        daemon.replica_pids(made, "echo")
        daemon.replica_pids(made, "tally")
        yield made


def in_child(what: Callable[[], object]) -> str:
    """What a forked child says of it: an error's name and message, or the value."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def say() -> None:
        try:
            there.send(repr(what()))
        except HpcserveError as error:
            there.send(f"{type(error).__name__}: {error}")

    child = context.Process(target=say)
    child.start()
    there.close()
    try:
        assert here.poll(AT_ONCE_S), "the child hangs"
        said: str = here.recv()
        child.join(AT_ONCE_S)
        assert child.exitcode == 0, "the child hangs at its end"
    finally:
        child.kill()
        child.join()
        here.close()
    return said


def uses(client: Client) -> dict[str, Callable[[], object]]:
    return {
        "infer": lambda: client.infer("echo.echo", ONE, timeout_s=1),
        "submit": lambda: client.submit("echo.echo", ONE, timeout_s=1).result(5),
        "map": lambda: list(client.map("echo.echo", [ONE], timeout_s=1)),
        "call": lambda: client.call("status", admin.AskStatus(), admin.Status, timeout_s=1),
    }


@pytest.mark.parametrize("use", ["infer", "submit", "map", "call"])
def test_each_call_in_a_child_says_what_is_wrong(client: Client, use: str) -> None:
    assert client.infer("echo.echo", ONE)["x"] == 1
    said = in_child(uses(client)[use])
    assert said.startswith("InvalidInput")
    assert TOLD in said
    assert client.infer("echo.echo", ONE)["x"] == 1


def test_a_lock_that_another_thread_held_at_the_fork_is_no_hang(client: Client) -> None:
    with client._shared.lock, client._shared.asking:
        said = in_child(uses(client)["infer"])
    assert TOLD in said


def test_a_future_of_the_parent_is_answered_in_the_parent_alone(client: Client, tmp_path: Any) -> None:
    parameters = {"log": str(tmp_path / "log"), "sleep_s": 1.0}
    future = client.submit("tally.again", np.int64(7), parameters=parameters)
    assert TOLD in in_child(future.result)
    assert future.result(20)["n"] == 7


def test_closing_in_a_child_does_the_parent_no_harm(client: Client) -> None:
    sessions = status(client).sessions

    def close() -> str:
        with contextlib.ExitStack() as stack:
            stack.enter_context(client)
        client.close()
        return "closed"

    with client._shared.lock:  # as if another thread had just sent something
        assert in_child(close) == "'closed'"
    assert client.infer("echo.echo", ONE)["x"] == 1
    assert status(client).sessions == sessions


def test_what_was_closed_before_the_fork_is_left_alone(daemon: Daemon, client: Client) -> None:
    """The numbers of its descriptors are given to others."""
    closed = daemon.client()
    closed.close()
    pipes = [os.pipe() for _ in range(8)]
    descriptors = [each for pipe in pipes for each in pipe]
    try:
        assert in_child(lambda: [os.fstat(each).st_nlink for each in descriptors]) == repr([1] * 16)
        assert TOLD in in_child(uses(client)["infer"])
    finally:
        for each in descriptors:
            os.close(each)
    with pytest.raises(InvalidInput, match="closed"):
        closed.infer("echo.echo", ONE)


def test_what_never_connected_is_left_alone_too(client: Client, tmp_path: Path) -> None:
    refused: list[ServiceUnavailable] = []  # its traceback keeps the client that was not made
    try:
        Client(Service(tmp_path / "service.json"))
    except ServiceUnavailable as error:
        refused.append(error)
    pipes = [os.pipe() for _ in range(8)]
    descriptors = [each for pipe in pipes for each in pipe]
    try:
        assert in_child(lambda: [os.fstat(each).st_nlink for each in descriptors]) == repr([1] * 16)
    finally:
        for each in descriptors:
            os.close(each)
    assert refused
    assert client.infer("echo.echo", ONE)["x"] == 1


def test_a_child_may_have_a_client_of_its_own(daemon: Daemon, client: Client) -> None:
    def own() -> float:
        with pytest.raises(InvalidInput, match=TOLD):
            client.infer("echo.echo", ONE, timeout_s=1)
        with daemon.client() as other:
            return float(other.infer("echo.echo", ONE)["x"][0])

    assert in_child(own) == "1.0"
    assert client.infer("echo.echo", ONE)["x"] == 1


SCRIPT = """
import os, sys
import numpy as np
import hpcserve

client = hpcserve.Client()
pid = os.fork()
if pid:
    _, code = os.waitpid(pid, 0)
    print("child", code, "parent", client.infer("echo.echo", np.ones(1, np.float32))["x"])
    client.close()
else:
    try:
        client.infer("echo.echo", np.ones(1, np.float32), timeout_s=5)
    except hpcserve.HpcserveError as error:
        print(error.code, flush=True)
"""


@pytest.mark.usefixtures("client")
def test_a_child_that_ends_as_programs_do_neither_hangs_nor_complains(daemon: Daemon) -> None:
    environment = os.environ | daemon.variables
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "invalid_input\nchild 0 parent [1.]\n"
    assert not done.stderr


# --- asyncio ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("client")
def test_an_open_asynchronous_client_does_not_cross_a_fork_either(daemon: Daemon) -> None:
    async def main() -> None:
        async with AsyncClient(Service(daemon.record)) as other:
            pending = other.submit("echo.echo", ONE)

            async def infer() -> Any:
                return await other.infer("echo.echo", ONE, timeout_s=1)

            async def close() -> str:
                await other.close()
                with pytest.raises(InvalidInput, match=TOLD):
                    await other.infer("echo.echo", ONE, timeout_s=1)
                return "closed"

            assert TOLD in in_child(lambda: asyncio.run(infer()))
            assert in_child(lambda: asyncio.run(close())) == "'closed'"
            assert (await pending)["x"] == 1
            assert (await other.infer("echo.echo", ONE))["x"] == 1

    with daemon.environment():
        asyncio.run(main())


@pytest.mark.usefixtures("client")
def test_nor_does_one_that_is_not_open_yet(daemon: Daemon) -> None:
    with daemon.environment():
        other = AsyncClient(Service(daemon.record))

    async def main() -> Any:
        async with other:
            return await other.infer("echo.echo", ONE, timeout_s=1)

    assert TOLD in in_child(lambda: asyncio.run(main()))
    assert asyncio.run(main())["x"] == 1
    with pytest.raises(InvalidInput, match="closed"):
        asyncio.run(main())
