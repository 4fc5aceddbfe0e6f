"""A client's session on the wire, which shows what the real client mends: refusals, and connections that end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from hpcserve.auth.keys import KeyPair
from hpcserve.client.call import Inference
from hpcserve.client.dial import FAILED, UP, Connection, dial, say_hello
from hpcserve.client.login import Login
from hpcserve.client.services import Service
from hpcserve.client.ways import way_to
from hpcserve.types import Counter
from hpcserve.wire import messages as wire
from hpcserve.wire.admin import Admin
from hpcserve.wire.frames import decode_to_client, encode, error_from_wire

PATIENCE_S = 60.0
TRIES = 10


class WireSession:
    """One session: of this key, and of a nonce of its own."""

    def __init__(self, record: Path, keys: KeyPair, token: str) -> None:
        self.keys = keys
        self.way = way_to(Service(record))
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.nonce = os.urandom(16)
        self.sent = 0
        self.outstanding: tuple[Counter, ...] = ()
        self.connection = self.dial(token)

    def dial(self, token: str) -> Connection:
        """HELLO and RESUME, with what is outstanding."""
        floor = min(self.outstanding, default=Counter(self.sent + 1))
        waits_for = lambda: (floor, self.outstanding)  # noqa: E731
        self.connection = dial(
            self.context, self.way, self.keys, nonce=self.nonce, waits_for=waits_for, login=Login(token=token)
        )
        return self.connection

    def hello(self, token: str) -> wire.Welcome:
        """HELLO again, beside the connection that there is."""
        with self.way.reach() as reached:
            return say_hello(self.context, reached, self.keys, token=token)

    def call(self, verb: str, body: Admin, kind: type[Any]) -> Any:
        """An administrative call."""
        self.sent += 1
        id = self.sent
        self.connection.socket.send(encode(wire.Call(id, verb, msgspec.Raw(msgspec.msgpack.encode(body)))))
        answer = self.hear(lambda each: isinstance(each, wire.Answer) and each.id == id)
        if answer.error is not None:
            raise error_from_wire(answer.error)
        return msgspec.msgpack.decode(answer.body, type=kind)

    def request(self, target: str, inputs: dict[str, Any], parameters: dict[str, Any]) -> Counter:
        """Sends a request; returns its id."""
        call = Inference(target, inputs, parameters=parameters, timeout_s=None, priority=0, own=True)
        self.sent += 1
        id = Counter(self.sent)
        floor = min(self.outstanding, default=id)
        header = wire.Request(
            id, call.endpoint, call.method, call.specs, call.parameters, floor=floor, enclosed=call.enclosed
        )
        self.connection.socket.send(encode(header))
        self.outstanding += (id,)
        return id

    def hear(self, wanted: Callable[[Any], bool]) -> Any:
        """The next message of this kind; others are passed over."""
        deadline = time.monotonic() + PATIENCE_S
        while (left_s := deadline - time.monotonic()) > 0:
            if not self.connection.socket.poll(int(left_s * 1000) + 1):
                continue
            message = decode_to_client(self.connection.socket.recv_multipart()[0])
            if wanted(message):
                return message
            assert not isinstance(message, wire.Refused), message.error
        raise AssertionError(f"nothing of the kind came within {PATIENCE_S:g} s")

    def result(self, id: Counter) -> wire.Result:
        """The result of a request."""
        found: wire.Result = self.hear(lambda each: isinstance(each, wire.Result) and each.id == id)
        self.outstanding = tuple(each for each in self.outstanding if each != id)
        return found

    def refusal(self) -> wire.ErrorInfo:
        """Why the connection ends, when it does."""
        refused: wire.Refused = self.hear(lambda each: isinstance(each, wire.Refused))
        return refused.error

    def may_connect(self) -> bool:
        """Whether the data socket takes the key, without a HELLO."""
        for _ in range(TRIES):
            event = self._handshake()
            if event in (zmq.Event.HANDSHAKE_SUCCEEDED, zmq.Event.HANDSHAKE_FAILED_AUTH):
                return event == zmq.Event.HANDSHAKE_SUCCEEDED
        raise AssertionError(f"{TRIES} handshakes were cut")

    def _handshake(self) -> int:
        """How one ends. It may also be cut: libzmq (4.3.5) does not always get its refusal across."""
        with self.way.reach() as reached, self.context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.reconnect_ivl = -1
            socket.curve_serverkey = reached.record.public_key.encode()
            socket.curve_publickey, socket.curve_secretkey = self.keys.public, self.keys.secret
            with socket.get_monitor_socket(int(UP | FAILED)) as monitor:
                socket.connect(reached.front.address)
                assert monitor.poll(int(PATIENCE_S * 1000)), "the handshake ends in some way"
                event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
                socket.disable_monitor()
        return event

    def close(self) -> None:
        """Ends everything."""
        self.context.destroy(linger=0)
