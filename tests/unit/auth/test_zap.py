"""The ZAP handler, asked by libzmq itself and by somebody who speaks nonsense."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from hpcserve.auth.keys import KeyPair, new_key_pair, to_z85
from hpcserve.auth.zap import ADDRESS, Decide, ZapHandler

PATIENCE_S = 10.0
SERVER = new_key_pair()
Context = zmq.Context[zmq.Socket[bytes]]


@pytest.fixture
def context() -> Iterator[Context]:
    kept = []

    class Keeping(zmq.Context[zmq.Socket[bytes]]):
        """Holds on to its sockets, which the tests leave to it to close."""

        def socket(self, *args: Any, **kwargs: Any) -> zmq.Socket[bytes]:
            kept.append(super().socket(*args, **kwargs))
            return kept[-1]

    made = Keeping()
    yield made
    for each in kept:
        each.disable_monitor()
    made.destroy(linger=0)


def serve(zap: ZapHandler, done: Callable[[], bool]) -> None:
    poller = zmq.Poller()
    poller.register(zap.socket, zmq.POLLIN)
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, "never happened"
        if poller.poll(20):
            zap.handle()


def server_and_client(context: Context, keys: KeyPair) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    server = context.socket(zmq.ROUTER)
    server.curve_server = True
    server.curve_secretkey = SERVER.secret
    server.zap_domain = b"test"
    port = server.bind_to_random_port("tcp://127.0.0.1")
    client = context.socket(zmq.DEALER)
    client.curve_publickey, client.curve_secretkey = keys.public, keys.secret
    client.curve_serverkey = SERVER.public
    client.connect(f"tcp://127.0.0.1:{port}")
    return server, client


def test_a_key_that_is_let_in_is_known_to_the_receiver(context: Context) -> None:
    keys = new_key_pair()
    asked: list[tuple[bytes, str, str]] = []

    def decide(key: bytes, address: str, domain: str) -> str:
        asked.append((key, address, domain))
        return to_z85(key)

    zap = ZapHandler(context, decide)
    server, client = server_and_client(context, keys)
    client.send(b"hello")
    serve(zap, lambda: bool(server.poll(0)))
    _, frame = server.recv_multipart(copy=False)
    assert frame.get("User-Id") == keys.public_z85
    assert asked == [(keys.public, "127.0.0.1", "test")]


def _raise(*_: object) -> str:
    raise RuntimeError("a defect")


@pytest.mark.parametrize("decide", [lambda *_: None, _raise])
def test_a_denied_client_is_told_so(context: Context, decide: Decide) -> None:
    zap = ZapHandler(context, decide)
    server, client = server_and_client(context, new_key_pair())
    monitor = client.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    client.send(b"hello")
    serve(zap, lambda: bool(monitor.poll(0)))
    assert recv_monitor_message(monitor)["value"] in (400, 500)
    assert not server.poll(0)


@pytest.mark.parametrize(
    "request_frames",
    [
        [b"x"],
        [b"", b"1.0"],
        [b"", b"1.0", b"id"],
        [b"", b"2.0", b"id", b"test", b"::1", b"", b"CURVE", bytes(32)],
        [b"", b"1.0", b"id", b"test", b"::1", b"", b"PLAIN", b"user", b"password"],
        [b"", b"1.0", b"id", b"test", b"::1", b"", b"CURVE", bytes(31)],
        [b"", b"1.0", b"id", b"\xff", b"::1", b"", b"CURVE", bytes(32)],
        [b""] * 300,
    ],
)
def test_nonsense_is_never_let_in_and_ends_nothing(context: Context, request_frames: list[bytes]) -> None:
    zap = ZapHandler(context, lambda *_: "anybody")
    asker = context.socket(zmq.DEALER)
    asker.connect(ADDRESS)
    asker.send_multipart(request_frames)
    asker.send_multipart([b"", b"1.0", b"sound", b"test", b"::1", b"", b"CURVE", bytes(32)])
    answers: list[list[bytes]] = []

    def sound_is_answered() -> bool:
        while asker.poll(0):
            answers.append(asker.recv_multipart())
        return bool(answers) and answers[-1][2] == b"sound"

    serve(zap, sound_is_answered)
    assert answers[-1] == [b"", b"1.0", b"sound", b"200", b"OK", b"anybody", b""]
    for answer in answers[:-1]:
        assert answer[1] == b"1.0"
        assert answer[3] == b"400"
