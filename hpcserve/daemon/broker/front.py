"""The clients' side of the broker: their messages become events of the exchange.

A connection is known by its routing id, which libzmq chooses and never gives to two connections; one that
a peer chose for itself is not listened to. Who is behind it, ZAP said at the handshake.
"""

from __future__ import annotations

import hashlib
import time

import msgspec
import zmq

from hpcserve.core.exchange import Call as ExchangeCall
from hpcserve.core.exchange import Exchange
from hpcserve.core.gate import recall
from hpcserve.core.sessions import Session
from hpcserve.daemon.access import caller_of
from hpcserve.daemon.broker.keyring import Keyring, Peer
from hpcserve.daemon.broker.sockets import Incoming, Tensor, address_of, receive, send, user_of
from hpcserve.daemon.broker.staging import Places
from hpcserve.errors import AuthenticationError, HpcserveError, InvalidInput, Overloaded, ProtocolError
from hpcserve.types import Epoch, SessionId
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import MAX_TENSORS, agree, decode_from_client, encode, error_to_wire
from hpcserve.wire.hub import Asker

NONCE_BYTES = 16
LONGEST_MS = 1000 * 3600 * 24 * 3650  # a deadline in ten years is none
MOST_SESSIONS = 10_000  # of one key, or of one identity, at a time
FEW = 1000
MOST_ITEMS = 1 << 16  # of a stream's window


class Body(msgspec.Struct, gc=False):
    """A request while the exchange holds it: what its replica has to be sent, and where its references are."""

    request: wire.Request
    tensors: list[Tensor]
    references: tuple[str, ...] = ()


def session_id(key: bytes, nonce: bytes) -> SessionId:
    """The session of a client key and its process's nonce: blake2b-128 of both."""
    return SessionId(hashlib.blake2b(key + nonce, digest_size=16).digest())


def _is_sound(window: wire.Window) -> bool:
    return 1 <= window.items <= MOST_ITEMS and window.size_bytes >= 1


class Front:
    """Reads the clients' socket."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        exchange: Exchange,
        keyring: Keyring,
        epoch: Epoch,
        places: Places,
        *,
        most_sessions: int = MOST_SESSIONS,
    ) -> None:
        self.socket = socket
        self.places = places
        self.calls: list[tuple[bytes, Asker, wire.Call]] = []
        self._exchange = exchange
        self._keyring = keyring
        self._epoch = epoch
        self._most_sessions = most_sessions
        self._sessions_of: dict[bytes, set[SessionId]] = {}
        self._owned: dict[str, set[SessionId]] = {}
        self._users: dict[bytes, str] = {}

    def handle(self) -> bool:
        """Takes one message; False when there is none."""
        message = receive(self.socket)
        if message is None:
            return False
        session = self._exchange.session_of(message.sender)
        if session is not None and user_of(message.header) != self._users.get(message.sender):
            session = None  # another peer has got hold of a routing id that was once the session's
        try:
            if message.too_many:
                raise ProtocolError("more tensor frames than a message may have")
            header = decode_from_client(message.header.bytes)
            if session is None:
                self._unknown(message, header)
            else:
                self._known(message, header, session)
        except HpcserveError as error:
            self._refuse(message.sender, error)
        return True

    def _known(self, message: Incoming, header: wire.FromClient, session: Session) -> None:
        now = time.monotonic()
        if type(header) is wire.Request:
            if header.enclosed and (message.tensors or len(header.enclosed) > MAX_TENSORS):
                raise ProtocolError(f"enclosed has more than {MAX_TENSORS} tensors, or frames follow beside it")
            self._exchange.owe_ack(session, header.floor, header.acks)
            try:
                references = self.places.check(header, session)
            except HpcserveError as error:
                self._exchange.refuse(session, header.id, error, now)
                return
            if header.window is not None and not _is_sound(header.window):
                refusal = InvalidInput(
                    f"window is {header.window.items} items, {header.window.size_bytes} bytes: give 1 or more of each, "
                    f"and at most {MOST_ITEMS} items"
                )
                self._exchange.refuse(session, header.id, refusal, now)
                return
            if len(header.acks) > FEW:  # they would be kept as long as the request waits, and count for nothing
                header = msgspec.structs.replace(header, acks=())
            call = ExchangeCall(
                header.id,
                header.endpoint,
                header.method,
                Body(header, message.tensors, references),
                message.size_bytes,
                header.remaining_ms and min(max(header.remaining_ms, 0), LONGEST_MS),
                header.priority,
            )
            self._exchange.request(session, call, now)
        elif type(header) is wire.Ack:
            self._exchange.ack(session, header.floor, header.acks, now)
        elif type(header) is wire.More:
            self._exchange.more(session, header.id, header.received, again=header.again, now=now)
        elif type(header) is wire.Call:
            assert isinstance(session.identity, Asker), "every session that resumed has one"
            self.calls.append((message.sender, session.identity, header))
        elif type(header) is wire.Bye:
            self._exchange.bye(session, now)
        else:
            self._unknown(message, header)

    def _unknown(self, message: Incoming, header: wire.FromClient) -> None:
        """A connection without a session, or a RESUME on one that has one."""
        if len(message.sender) != 5 or message.sender[0]:
            return  # the peer chose its own routing id, and could take over another connection's
        user = user_of(message.header)
        peer = self._keyring.peer(user)
        if peer is None:
            raise AuthenticationError("this key is not admitted any more: say HELLO to admission again")
        left = self._exchange.left_by(message.sender)
        if left is not None and user == self._users.get(message.sender):
            self._last_words(header, left)
        if type(header) is not wire.Resume:
            send(self.socket, message.sender, encode(wire.WhoAreYou()))
            return
        self._resume(message.sender, header, peer, address_of(message.header))
        self._users[message.sender] = peer.key.hex()
        if len(self._users) > 2 * len(self._exchange.sessions) + FEW:
            self._users = {each: user for each, user in self._users.items() if self._is_known(each)}

    def _is_known(self, connection: bytes) -> bool:
        return bool(self._exchange.session_of(connection) or self._exchange.left_by(connection))

    def _last_words(self, header: wire.FromClient, session: Session) -> None:
        """What its client does not want any more, and said before its connection was found gone."""
        if type(header) is wire.Ack:
            self._exchange.ack(session, header.floor, header.acks, time.monotonic())
        elif type(header) is wire.Bye:
            self._exchange.bye(session, time.monotonic())

    def _resume(self, connection: bytes, header: wire.Resume, peer: Peer, address: str) -> None:
        version = agree((header.version,), "the client", "the daemon")
        if len(header.nonce) != NONCE_BYTES:
            raise ProtocolError(f"RESUME: the nonce has {len(header.nonce)} bytes, not {NONCE_BYTES}")
        id = session_id(peer.key, header.nonce)
        self._check_number(peer, id)
        self._exchange.resume(
            id,
            connection,
            identity=Asker(peer.identity, id, address),
            caller=caller_of(peer.identity),
            floor=header.floor,
            outstanding=tuple(header.outstanding),
            now=time.monotonic(),
        )
        self._sessions_of.setdefault(peer.key, set()).add(id)
        budget = self._exchange.limits.session_bytes
        places = self.places
        told = wire.Resumed(version, self._epoch, id, budget, places.https_bytes, places.transfers)
        send(self.socket, connection, encode(told))

    def _check_number(self, peer: Peer, id: SessionId) -> None:
        """No identity can have sessions without end, with however many keys; nor a key, where there are only keys."""
        sessions = self._owned.setdefault(peer.identity.id or peer.key.hex(), set())
        if len(sessions) >= self._most_sessions and id not in sessions:
            sessions.intersection_update(self._exchange.sessions)
            if len(sessions) >= self._most_sessions:
                whose = peer.subject if peer.identity.id else "this key"
                raise Overloaded(f"{whose} has {len(sessions)} sessions, the most at once", retry_after_s=10.0)
        sessions.add(id)

    def _refuse(self, connection: bytes, error: HpcserveError) -> None:
        """The connection broke the rules: its session is detached, the client told."""
        self._exchange.client_gone(connection, time.monotonic())
        send(self.socket, connection, encode(wire.Refused(error_to_wire(error))))

    def identity_changed(self, peer: Peer) -> None:
        """Of who has the key something else is known now: its sessions are judged by that from here on."""
        for id in self._sessions_of.get(peer.key, ()):
            session = self._exchange.sessions.get(id)
            if session is not None and isinstance(session.identity, Asker):
                session.identity = msgspec.structs.replace(session.identity, identity=peer.identity)
                recall(session, caller_of(peer.identity))

    def end_sessions(self, key: bytes, error: HpcserveError) -> None:
        """The key was revoked: its sessions end now (ZAP alone would let them go on).

        If the error is retryable only their connections do: whoever is let in again resumes them.
        """
        for id in tuple(self._sessions_of.get(key, ())) if error.retryable else self._sessions_of.pop(key, ()):
            session = self._exchange.sessions.get(id)
            if session is None:
                continue
            connection = session.connection
            if not error.retryable:
                self._exchange.bye(session, time.monotonic())
            elif connection is not None:
                self._exchange.client_gone(connection, time.monotonic())
            if connection is not None:
                send(self.socket, connection, encode(wire.Refused(error_to_wire(error))))
