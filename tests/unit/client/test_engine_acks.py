"""When the client's engine acknowledges without being asked to, while calls still wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from hpcserve.client.call import Inference
from hpcserve.client.dial import Connection
from hpcserve.client.engine import ACK_AT_ONCE_BYTES, Engine
from hpcserve.types import Counter, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decode_from_client, encode

PATIENCE_MS = 10_000
RESULT_BYTES = 50_000
CALLS = 100


class Peer:
    """A broker's end of the connection of an engine that waits for many answers.

    Nothing here looks at the time: what the engine acknowledges it does on account of the answers alone.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], session_bytes: int) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.bind("inproc://peer")
        socket = context.socket(zmq.DEALER)
        socket.connect("inproc://peer")
        connection = Connection(socket, socket.get_monitor_socket())
        connection.session_bytes = session_bytes
        self.engine = Engine()
        self.engine.connected(connection, (1, ()))
        for _ in range(CALLS):
            self.engine.infer(Inference("echo", {}, parameters=None, timeout_s=600, priority=0, own=True))
            assert isinstance(self.heard(), wire.Request)
        self._answered = 0
        self._connection = connection

    def heard(self) -> object:
        """The engine's next message; None if there is none."""
        if not self._socket.poll(0):
            return None
        return decode_from_client(self._socket.recv_multipart()[0])

    def answer(self) -> object:
        """Sends the next result, and returns what the engine says to it."""
        self._answered += 1
        header = encode(wire.Result(SessionId(b"session"), Counter(self._answered)))
        self._socket.send_multipart((header, bytes(RESULT_BYTES)))
        assert self._connection.socket.poll(PATIENCE_MS)
        self.engine.drain()
        assert self.engine.waiting == CALLS - self._answered
        return self.heard()

    def close(self) -> None:
        self.engine.lost()
        self._socket.close(linger=0)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


@pytest.mark.parametrize(
    ("session_bytes", "unacknowledged_bytes"),
    [(10 * RESULT_BYTES, 10 * RESULT_BYTES // 4), (1 << 30, ACK_AT_ONCE_BYTES)],
    ids=["a small budget", "a large one"],
)
def test_answers_are_acknowledged_long_before_the_budget_is_used_up(
    context: zmq.Context[zmq.Socket[bytes]], session_bytes: int, unacknowledged_bytes: int
) -> None:
    """A client of a small budget would otherwise be sent one budget in each tenth of a second, and no more."""
    peer = Peer(context, session_bytes)
    try:
        most = unacknowledged_bytes // RESULT_BYTES
        assert [peer.answer() for _ in range(most)] == [None] * most
        assert peer.answer() == wire.Ack(most + 2)
    finally:
        peer.close()
