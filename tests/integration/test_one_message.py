"""One message, call or callback, however odd, ends neither a process of the daemon nor its own client's patience."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.client.call import Inference
from hpcserve.client.dial import dial
from hpcserve.client.keys import client_keys
from hpcserve.client.outputs import Outputs
from hpcserve.errors import HpcserveError, InvalidInput, NotFound, UnknownEndpoint
from hpcserve.types import Counter
from hpcserve.wire import admin, messages
from hpcserve.wire.frames import MAX_HEADER_BYTES, decode_to_client, encode, raw
from tests.integration.daemon_tree import EXAMPLES, Daemon, status, until

NewDaemon = Callable[..., Daemon]

X = np.ones(3, np.float32)


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as made:
        daemon.deploy(made, EXAMPLES / "echo")
        yield made


@pytest.fixture
def unharmed(client: Client) -> Iterator[None]:
    """Afterwards the same processes serve as before."""
    before = status(client)
    yield
    assert client.infer("echo.echo", X)["x"].tolist() == [1, 1, 1]
    after = status(client)
    assert (after.epoch, after.processes) == (before.epoch, before.processes)


@pytest.mark.usefixtures("unharmed")
def test_a_callback_may_call_and_wait(client: Client) -> None:
    inner: concurrent.futures.Future[Outputs] = concurrent.futures.Future()

    def again(future: concurrent.futures.Future[Outputs]) -> None:
        inner.set_result(client.infer("echo.echo", future.result()["x"] + 1, timeout_s=10))

    client.submit("echo.echo", X).add_done_callback(again)
    assert inner.result(20)["x"].tolist() == [2, 2, 2]
    client.submit("echo.echo", X).result(10)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("timeout_s", [1e12, float("inf")])
def test_a_deadline_in_the_far_future_is_none(client: Client, timeout_s: float) -> None:
    assert client.infer("echo.echo", X, timeout_s=timeout_s)["x"].tolist() == [1, 1, 1]


@pytest.mark.usefixtures("unharmed")
def test_the_greatest_deadline_of_the_wire_is_taken(daemon: Daemon, client: Client) -> None:
    described, frame = raw([["x", "float32", [3]]]), X.tobytes()
    with daemon.environment():
        keys = client_keys()
    connection = dial(client._context, client._way, keys, nonce=b"n" * 16, waits_for=lambda: (1, ()))
    try:
        for remaining_ms in (2**64 - 1, -5):
            id = Counter(1 if remaining_ms > 0 else 2)
            request = messages.Request(id, "echo", "echo", described, remaining_ms=remaining_ms)
            connection.socket.send_multipart([encode(request), frame])
            assert connection.socket.poll(10_000)
            answer = decode_to_client(connection.socket.recv_multipart()[0])
            assert isinstance(answer, messages.Result)
            assert answer.id == id
            assert (answer.error is None) == (remaining_ms > 0)
    finally:
        connection.close()


@pytest.mark.usefixtures("unharmed")
def test_a_way_to_reply_that_does_not_exist_is_refused(daemon: Daemon, client: Client) -> None:
    described, frame = raw([["x", "float32", [3]]]), X.tobytes()
    with daemon.environment():
        keys = client_keys()
    connection = dial(client._context, client._way, keys, nonce=b"r" * 16, waits_for=lambda: (1, ()))
    try:
        for number, reply in enumerate(["pigeon", "stream", "", "inline"], start=1):
            request = messages.Request(Counter(number), "echo", "echo", described, reply=reply)
            connection.socket.send_multipart([encode(request), frame])
            answer: object = messages.Ping()
            while isinstance(answer, messages.Ping):  # on a busy machine the broker may ask meanwhile who is there
                assert connection.socket.poll(60_000)
                answer = decode_to_client(connection.socket.recv_multipart()[0])
            assert isinstance(answer, messages.Result)
            assert answer.id == number
            if reply == "inline":
                assert answer.error is None
            else:
                assert answer.error is not None
                assert answer.error.code == "invalid_input"
                assert f"reply is {reply!r}" in answer.error.message
    finally:
        connection.close()


@pytest.mark.usefixtures("unharmed")
def test_a_call_as_long_as_may_be_is_answered(client: Client) -> None:
    with pytest.raises(HpcserveError):
        client.call("publish", admin.Publish(path="/" + "x" * (MAX_HEADER_BYTES - 200)), admin.Published, timeout_s=20)


@pytest.mark.usefixtures("unharmed")
def test_long_logs_are_answered(daemon: Daemon, client: Client) -> None:
    logs = daemon.shared / "logs"
    for number in range(8):
        (logs / f"echo-abcd-{number}.log").write_text("a line of the log\n" * 20_000)
    found = client.call("logs", admin.AskLogs(name="echo", lines=100_000), admin.Logs)
    assert sum(len(each.text) for each in found.logs) > MAX_HEADER_BYTES
    with pytest.raises(NotFound):
        client.call("logs", admin.AskLogs(name="../" * 1000), admin.Logs)


@pytest.mark.usefixtures("unharmed")
def test_a_name_without_end_is_refused_at_once(client: Client) -> None:
    call = Inference("e", X, parameters=None, timeout_s=10.0, priority=0, own=False)
    call.endpoint = "e" * 500_000  # our own client refuses such a name before it is sent
    client._shared.start(call)
    client._shared.wait(call, None)
    with pytest.raises(UnknownEndpoint, match="at most 128 characters") as told:
        call.outcome()
    assert len(str(told.value)) < 1000


@pytest.mark.usefixtures("unharmed")
def test_parameters_that_no_header_holds_are_refused_by_the_client(client: Client) -> None:
    with pytest.raises(InvalidInput, match="send large values as inputs"):
        client.infer("echo.value", {"value": X}, parameters={"wrap": "x" * MAX_HEADER_BYTES})


def test_results_that_a_vanished_client_left_make_room_for_the_next(new_daemon: NewDaemon) -> None:
    """A full outbox whose owner says goodbye: nothing else carries the release along."""
    daemon = new_daemon(budgets={"outbox_bytes": 1_000_000}).up()
    blob = np.zeros(2_000_000, np.uint8)
    with daemon.client() as first:
        daemon.deploy(first, EXAMPLES / "echo")
        assert first.infer("echo.blob", blob)["blob"].size == blob.size
    with daemon.client() as second:
        until(lambda: status(second).held_bytes == 0, "the daemon forgets the first client")
        assert second.infer("echo.blob", blob, timeout_s=10)["blob"].size == blob.size
