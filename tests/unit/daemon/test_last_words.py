"""What a client said before it closed its connection, and the broker reads only after a write to it has failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import zmq

from hpcserve.auth.keys import new_key_pair
from hpcserve.auth.zap import ZapHandler
from hpcserve.core.exchange import Exchange
from hpcserve.core.ledger import State
from hpcserve.core.routes import Deployment
from hpcserve.core.sessions import Session
from hpcserve.daemon.broker.front import Front
from hpcserve.daemon.broker.keyring import FRONT, Keyring
from hpcserve.daemon.broker.sockets import router, send
from hpcserve.daemon.broker.staging import Places
from hpcserve.types import Counter, DeploymentName, EndpointName, Epoch, ReplicaId
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import encode
from hpcserve.wire.hub import AdmitKey
from tests.unit.core.exchange_desk import LIMITS

PATIENCE_S = 10.0
NONCE = bytes(16)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what


@dataclass
class Service:
    """The broker's front with one replica behind it, and whatever else a client needs to be let in."""

    context: zmq.Context[zmq.Socket[bytes]]
    address: str

    def __post_init__(self) -> None:
        self.own, self.users = new_key_pair(), new_key_pair()
        keyring = Keyring()
        keyring.admit(AdmitKey(self.users.public, "client", "somebody"), 0.0)
        self.zap = ZapHandler(self.context, lambda key, address, domain: keyring.decide(key, domain))
        self.exchange = Exchange(LIMITS, time.monotonic())
        self.exchange.route(
            {EndpointName("walk"): DeploymentName("walk@1")},
            [Deployment(DeploymentName("walk@1"), {"steps": True}, "steps", (ReplicaId("r"),))],
            now=time.monotonic(),
        )
        self.exchange.inventory(
            ReplicaId("r"), b"r", unfinished=(), finished=(), fence=0, credit=(9, 1000), now=time.monotonic()
        )
        socket = router(self.context, self.own, FRONT.encode(), largest_bytes=1 << 20)
        socket.bind(self.address)
        self.front = Front(socket, self.exchange, keyring, Epoch(1), Places("/nowhere"))

    def client(self) -> zmq.Socket[bytes]:
        """A connection of the client that has resumed its session."""
        made = self.context.socket(zmq.DEALER)
        made.linger = 500
        made.curve_serverkey = self.own.public
        made.curve_publickey, made.curve_secretkey = self.users.public, self.users.secret
        made.connect(self.front.socket.getsockopt_string(zmq.LAST_ENDPOINT))
        made.send(encode(wire.Resume(1, NONCE)))
        until(lambda: self.serve(made), "the client has resumed")
        made.recv()
        return made

    def serve(self, client: zmq.Socket[bytes]) -> bool:
        """Reads what has come; returns whether the client has got something."""
        self.zap.handle()
        self.front.handle()
        return bool(client.poll(10))

    def session(self) -> Session:
        (session,) = self.exchange.sessions.values()
        return session

    def forward(self, connection: bytes) -> bool:
        """What the broker does when a replica has sent items."""
        if send(self.front.socket, connection, b"items"):
            return True
        self.exchange.client_gone(connection, time.monotonic())
        return False

    def states(self) -> list[State]:
        """Of the requests that are not over."""
        return [State(each.state) for session in self.exchange.sessions.values() for each in session.entries.values()]


@pytest.fixture(params=["tcp", "ipc"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    with zmq.Context() as context:
        made = Service(context, "tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/front")
        yield made
        made.zap.close()
        made.front.socket.close()


def streaming(service: Service) -> tuple[zmq.Socket[bytes], bytes]:
    """A client whose stream runs, and its connection."""
    client = service.client()
    client.send(encode(wire.Request(Counter(1), "walk", "steps", msgspec.Raw(b"\x90"), window=wire.Window(9, 9))))
    until(lambda: service.front.handle() and service.states() == [State.RUNNING], "the stream runs")
    connection = service.session().connection
    assert connection is not None
    assert service.forward(connection)
    return client, connection


@pytest.mark.parametrize("words", [(wire.Ack(2), wire.Bye()), (wire.Bye(),), (wire.Ack(2),)])
def test_what_lies_unread_when_a_write_fails_is_heard(service: Service, words: tuple[wire.FromClient, ...]) -> None:
    client, connection = streaming(service)
    for each in words:
        client.send(encode(each))
    client.close()
    until(lambda: not service.forward(connection), "the broker finds the client gone")
    assert service.states() == [State.RUNNING]
    while service.front.handle():
        pass
    assert service.states() == [State.ABANDONED]
    assert service.session().connection is None


def test_what_was_said_before_the_client_came_back_is_not(service: Service) -> None:
    old, connection = streaming(service)
    old.send(encode(wire.Bye()))
    old.close()
    until(lambda: not service.forward(connection), "the broker finds the client gone")
    service.exchange.resume(
        service.session().id, b"new", identity="somebody", floor=1, outstanding=(Counter(1),), now=time.monotonic()
    )
    while service.front.handle():
        pass
    assert service.states() == [State.RUNNING]
    assert service.session().connection == b"new"


def test_one_that_is_only_cut_off_is_asked_who_it_is(service: Service) -> None:
    client, connection = streaming(service)
    assert client.recv() == b"items"
    service.exchange.client_gone(connection, time.monotonic())  # as when it has left too much unread
    client.send(encode(wire.Ack(1)))
    until(lambda: service.serve(client), "an answer")
    assert client.recv() == encode(wire.WhoAreYou())
    client.close()
