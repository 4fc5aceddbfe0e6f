"""How many sessions one identity may have, and what a key that is taken out does to them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

from hpcserve.auth.keys import KeyPair, new_key_pair, to_z85
from hpcserve.auth.zap import ZapHandler
from hpcserve.config import load_site
from hpcserve.config.access import Access, Rules
from hpcserve.config.globus import Globus
from hpcserve.core.exchange import Exchange
from hpcserve.daemon.broker.__main__ import most_sessions
from hpcserve.daemon.broker.front import MOST_SESSIONS, Front
from hpcserve.daemon.broker.keyring import FRONT, Keyring
from hpcserve.daemon.broker.sockets import router
from hpcserve.daemon.broker.staging import Places
from hpcserve.errors import AuthenticationError, ServiceUnavailable
from hpcserve.types import Epoch
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decode_to_client, encode
from hpcserve.wire.hub import AdmitKey, Identity
from tests.unit.core.exchange_desk import LIMITS

PATIENCE_S = 10.0


class Lobby:
    """The broker's front, and clients of identities that each may have two sessions."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.context = context
        self.own = new_key_pair()
        self.keyring = Keyring()
        self.zap = ZapHandler(context, lambda key, address, domain: self.keyring.decide(key, domain))
        self.exchange = Exchange(LIMITS, time.monotonic())
        socket = router(context, self.own, FRONT.encode(), largest_bytes=1 << 20)
        socket.bind("tcp://127.0.0.1:*")
        self.front = Front(socket, self.exchange, self.keyring, Epoch(1), Places("/nowhere"), most_sessions=2)
        self.clients: list[zmq.Socket[bytes]] = []

    def admit(self, name: str, id: str = "") -> KeyPair:
        keys = new_key_pair()
        identity = Identity(name, to_z85(keys.public), id)
        self.keyring.admit(AdmitKey(keys.public, "client", name, 0, identity), 0.0)
        return keys

    def resume(self, keys: KeyPair, nonce: bytes) -> tuple[zmq.Socket[bytes], object]:
        """A client that asks for a session, and what it is answered."""
        client = self.context.socket(zmq.DEALER)
        self.clients.append(client)
        client.linger = 0
        client.curve_serverkey = self.own.public
        client.curve_publickey, client.curve_secretkey = keys.public, keys.secret
        client.connect(self.front.socket.getsockopt_string(zmq.LAST_ENDPOINT))
        client.send(encode(wire.Resume(1, nonce)))
        return client, self.heard(client)

    def heard(self, client: zmq.Socket[bytes]) -> object:
        deadline = time.monotonic() + PATIENCE_S
        while not client.poll(10):
            assert time.monotonic() < deadline, "no answer came"
            self.zap.handle()
            self.front.handle()
        return decode_to_client(client.recv())


@pytest.fixture
def lobby() -> Iterator[Lobby]:
    with zmq.Context() as context:
        made = Lobby(context)
        yield made
        for client in made.clients:
            client.close()
        made.zap.close()
        made.front.socket.close()


OWN, LOGIN = (f"8f2c1d1e-0000-4000-8000-00000000000{number}" for number in (1, 2))
OF_GLOBUS = {
    "auth": "globus",
    "globus": Globus(client_id=OWN, native_client_id=LOGIN, sessions_per_identity=7),
    "access": Access(administer=Rules(allow=("user:ada@lab.example",))),
}


@pytest.mark.parametrize(("said", "most"), [(OF_GLOBUS, 7), ({"auth": "keys"}, MOST_SESSIONS)])
def test_the_site_says_how_many(said: dict[str, Any], most: int) -> None:
    assert most_sessions(msgspec.structs.replace(load_site("local"), **said)) == most


@pytest.mark.parametrize("id", ["ada-id", ""])
def test_an_identity_has_so_many_sessions_and_without_one_a_key_has(lobby: Lobby, id: str) -> None:
    keys = [lobby.admit("ada", id), lobby.admit("ada", id)]
    answers = [lobby.resume(keys[number % 2], bytes([number]) * 16)[1] for number in range(4)]
    expected = [wire.Resumed, wire.Resumed, *([wire.Refused] * 2 if id else [wire.Resumed] * 2)]
    assert [type(each) for each in answers] == expected
    assert isinstance(lobby.resume(keys[0], bytes(16))[1], wire.Resumed), "a session that there is may be resumed"
    assert isinstance(lobby.resume(lobby.admit("ben", id and "ben-id"), bytes(16))[1], wire.Resumed)


def test_a_key_that_is_taken_out_for_good_loses_its_sessions(lobby: Lobby) -> None:
    keys = lobby.admit("ada")
    client, _ = lobby.resume(keys, bytes(16))
    lobby.front.end_sessions(keys.public, AuthenticationError("revoked"))
    refused = lobby.heard(client)
    assert isinstance(refused, wire.Refused)
    assert refused.error.code == "unauthenticated"
    assert not lobby.exchange.sessions


def test_a_key_that_may_come_back_keeps_them(lobby: Lobby) -> None:
    keys = lobby.admit("ada")
    client, _ = lobby.resume(keys, bytes(16))
    lobby.front.end_sessions(keys.public, ServiceUnavailable("Globus does not answer"))
    refused = lobby.heard(client)
    assert isinstance(refused, wire.Refused)
    assert refused.error.code == "unavailable"
    (session,) = lobby.exchange.sessions.values()
    assert session.connection is None
    lobby.front.end_sessions(keys.public, AuthenticationError("revoked after all"))
    assert not lobby.exchange.sessions
