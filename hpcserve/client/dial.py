"""From a service to a connection: read the record, HELLO at admission, RESUME at the broker.

One call of :func:`dial` is one try; it blocks for a few seconds at most and never hangs, unless a person is asked to
log in: a peer with
the wrong key is told by the socket's monitor, a silent one by the time. When to try again is not decided here.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable
from typing import Any

import zmq

import hpcserve
from hpcserve.auth.keys import KeyPair
from hpcserve.client.fetching import Fetcher, Seen, is_marked
from hpcserve.client.login import Login
from hpcserve.client.successor import Successor
from hpcserve.client.ways import Door, Reached, Way
from hpcserve.errors import AuthenticationError, LoginRequired, ProtocolError, ServiceUnavailable
from hpcserve.types import Counter
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decode_from_admission, decode_to_client, encode, error_from_wire
from hpcserve.wire.record import ServiceRecord

# The daemon's host that is gone is noticed after 20 s by TCP. ZeroMQ's heartbeats wait for whole frames: on a slow
# line, one that takes longer than they wait would never arrive (libzmq 4.3.5). So a daemon that stands still is not
# noticed by its connection: see Successor.
KEEPALIVE_S, KEEPALIVE_TRIES = 5, 3
SOFTWARE = f"hpcserve {hpcserve.__version__}"

MOST_LOGINS = 4  # a service may ask for a login, then for a second factor, and so on, but not for ever

# libzmq does not say why a handshake was cut: the peer died, or could not read what a wrong key had sealed.
CUT_TRIES, CUT_PAUSE_S = 4, 0.4

UP = zmq.Event.HANDSHAKE_SUCCEEDED
FAILED = zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_AUTH
DOWN = zmq.Event.DISCONNECTED | zmq.Event.CLOSED
_MONITORED = struct.Struct("=Hi")  # the event and its value


class _Cut(ServiceUnavailable):
    """The peer closed the connection during the handshake."""


class Connection:
    """A socket of one connection, never reconnected.

    ``poller`` tells when the socket or its monitor may have something to read. ``successor`` is known of a connection
    to a broker, and tells whether another one has taken its place; ``ways`` are those to what it stages.
    ``expires_in_s``: for so long HELLO has let in.
    """

    def __init__(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
        self.socket = socket
        self.monitor = monitor
        self.monitor_fd = int(monitor.FD)
        self.poller = select.poll()
        self.socket_fd = int(socket.FD)
        self.poller.register(self.socket_fd, select.POLLIN)
        self.poller.register(self.monitor_fd, select.POLLIN)
        self.session_bytes = 0
        self.expires_in_s: float | None = None
        self.successor: Successor | None = None
        self.ways: tuple[Fetcher, ...] = ()
        self.https_bytes = 0
        self.transfers = False
        self._sources = [(socket, zmq.POLLIN)]

    def has_message(self) -> bool:
        """Whether a message waits.

        Asking for ZMQ_EVENTS, or receiving in vain, costs four times as much in pyzmq 27.
        """
        return bool(zmq.zmq_poll(self._sources, 0))

    def monitor_event(self) -> zmq.Event:
        """What the monitor tells next; waits for it.

        Not pyzmq's own: its module imports asyncio, a tenth of the time that ``hpcserve status`` takes (pyzmq 27).

        Source: zmq_socket_monitor(3).
        """
        kind, _ = _MONITORED.unpack(self.monitor.recv_multipart()[0])
        return zmq.Event(kind)

    def is_down(self) -> bool:
        """Whether the monitor has told that the connection is lost."""
        while self.monitor.poll(0):
            if self.monitor_event() & (DOWN | FAILED):
                return True
        return False

    def send(self, header: bytes) -> None:
        """Sends the first message.

        Raises:
            ServiceUnavailable: The connection has gone again.
        """
        try:
            self.socket.send(header, zmq.NOBLOCK)
        except zmq.Again as error:
            raise ServiceUnavailable("the daemon closed the connection at once") from error

    def close(self, linger_ms: int = 0) -> None:
        """Closes both sockets; what has not left after ``linger_ms`` is dropped."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=linger_ms)


def dial(
    context: zmq.Context[zmq.Socket[bytes]],
    way: Way,
    keys: KeyPair,
    *,
    nonce: bytes,
    waits_for: Callable[[], tuple[int, tuple[Counter, ...]]],
    login: Login | None = None,
) -> Connection:
    """Connects to the service's daemon.

    Args:
        context: Where the sockets are made.
        way: How to get to it.
        keys: The user's own key pair.
        nonce: The 16 bytes that this process chose for its session.
        waits_for: The session's floor and outstanding requests, asked for at the last moment.
        login: The client's login, if it has one.

    Raises:
        ServiceUnavailable: Nobody answers: try again later.
        AuthenticationError: The daemon has another key, or does not know ours.
        LoginRequired: It wants a login that nobody has made.
        VersionMismatch: The two sides are too far apart.
    """
    login = login or Login()
    with login.lock, way.reach() as reached:
        record = reached.record
        welcome = enter(context, reached, keys, login)
        try:
            connection = _open(context, record, reached.front, keys)
        except AuthenticationError as error:
            # Admission has just let us in, so the key is right: the broker is a new one that was not told yet.
            raise ServiceUnavailable(f"the daemon on {record.host} is restarting") from error
        try:
            floor, outstanding = waits_for()
            connection.send(encode(wire.Resume(wire.WIRE_VERSIONS[0], nonce, floor, outstanding)))
            answer = _answer(connection, decode_to_client, "the daemon's data socket", record, reached.front)
            resumed = _resumed(answer)
            connection.session_bytes = resumed.session_bytes
            connection.expires_in_s = welcome.expires_in_s
            connection.successor = Successor(way, resumed.epoch)
            connection.https_bytes, connection.transfers = resumed.https_bytes, resumed.transfers
            connection.ways = (Seen(record.staging),) if is_marked(record.staging, record.public_key) else ()
        except BaseException:
            connection.close()
            raise
    return connection


def _resumed(answer: object) -> wire.Resumed:
    if not isinstance(answer, wire.Resumed):
        raise ProtocolError(f"expected RESUMED from the daemon, got {type(answer).__name__}")
    return answer


def enter(context: zmq.Context[zmq.Socket[bytes]], reached: Reached, keys: KeyPair, login: Login) -> wire.Welcome:
    """Says HELLO, with a token where the service wants one; each that it refuses is followed by a better one.

    Raises:
        HpcserveError: As :func:`dial`.
    """
    service = reached.record.public_key
    token = login.token(service)
    login.spare(service, token)
    try:
        for _ in range(MOST_LOGINS):
            try:
                return say_hello(context, reached, keys, token=token)
            except LoginRequired as refused:
                token = login.after(service, refused)
        return say_hello(context, reached, keys, token=token)
    except LoginRequired as refused:
        login.was_refused(service, token, refused)
        raise


def say_hello_again(context: zmq.Context[zmq.Socket[bytes]], way: Way, keys: KeyPair, login: Login) -> float | None:
    """Says HELLO with a newer token, beside a connection that stays.

    Returns:
        For how many seconds that lets in; None: for ever.

    Raises:
        HpcserveError: As :func:`dial`; LoginRequired if there is no newer one.
    """
    with login.lock, way.reach() as reached:
        token = login.newer(reached.record.public_key)
        if token is None:
            raise LoginRequired("the login ends and does not renew itself; log in: hpcserve login")
        return say_hello(context, reached, keys, token=token).expires_in_s


def say_hello(
    context: zmq.Context[zmq.Socket[bytes]], reached: Reached, keys: KeyPair, *, token: str = ""
) -> wire.Welcome:
    """Asks admission to let our key in.

    Raises:
        HpcserveError: As :func:`dial`.
    """
    record = reached.record
    connection = _open_at_last(context, record, reached.admission, keys)
    try:
        connection.send(encode(wire.Hello(wire.WIRE_VERSIONS, SOFTWARE, token)))
        answer = _answer(connection, decode_from_admission, "admission", record, reached.admission)
    finally:
        connection.close()
    if not isinstance(answer, wire.Welcome):
        raise ProtocolError(f"expected WELCOME from admission, got {type(answer).__name__}")
    return answer


def _open_at_last(
    context: zmq.Context[zmq.Socket[bytes]], record: ServiceRecord, door: Door, keys: KeyPair
) -> Connection:
    """As :func:`_open`; a handshake that is cut each time was cut because of the service's key."""
    for _ in range(CUT_TRIES - 1):
        try:
            return _open(context, record, door, keys)
        except _Cut:
            time.sleep(CUT_PAUSE_S)
    try:
        return _open(context, record, door, keys)
    except _Cut as error:
        raise _wrong_key(door.shown, record) from error


def _wrong_key(address: str, record: ServiceRecord) -> AuthenticationError:
    return AuthenticationError(
        f"the handshake with {address} on {record.host} failed: either it is not the daemon of the key "
        f"{record.public_key}, or it does not know our key"
    )


def _open(context: zmq.Context[zmq.Socket[bytes]], record: ServiceRecord, door: Door, keys: KeyPair) -> Connection:
    socket = context.socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.linger = 0
    socket.reconnect_ivl = -1
    socket.ipv6 = "[" in door.address
    socket.tcp_keepalive, socket.tcp_keepalive_cnt = 1, KEEPALIVE_TRIES
    socket.tcp_keepalive_idle = socket.tcp_keepalive_intvl = KEEPALIVE_S
    socket.tcp_maxrt = (1 + KEEPALIVE_TRIES) * KEEPALIVE_S * 1000
    socket.curve_serverkey = record.public_key.encode()
    socket.curve_publickey, socket.curve_secretkey = keys.public, keys.secret
    connection = Connection(socket, socket.get_monitor_socket(int(UP | FAILED | DOWN)))
    try:
        socket.connect(door.address)
        _wait_up(connection, door, record)
    except BaseException:
        connection.close()
        raise
    return connection


def _wait_up(connection: Connection, door: Door, record: ServiceRecord) -> None:
    address, until = door.shown, time.monotonic() + door.answer_s
    while (left := until - time.monotonic()) > 0:
        if not connection.monitor.poll(int(left * 1000) + 1):
            continue
        event = connection.monitor_event()
        if event == UP:
            return
        if event == zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
            raise _Cut(f"{address} on {record.host} closed the connection during the handshake")
        if event & FAILED:
            raise _wrong_key(address, record)
        raise ServiceUnavailable(
            f"no daemon answers at {address} on {record.host}; if it was killed, start it there again: hpcserve up"
        )
    raise ServiceUnavailable(
        f"{address} on {record.host} did not finish the handshake within {door.answer_s:g} s: the daemon or its host "
        "stands still; on that host, hpcserve doctor says more"
    )


def _answer(
    connection: Connection, decode: Callable[[bytes | memoryview], Any], who: str, record: ServiceRecord, door: Door
) -> Any:
    """The first message that comes back.

    Raises:
        HpcserveError: It is a refusal (the error in it), or there is none.
    """
    poller = zmq.Poller()
    poller.register(connection.socket, zmq.POLLIN)
    poller.register(connection.monitor, zmq.POLLIN)
    until = time.monotonic() + door.answer_s
    while (left := until - time.monotonic()) > 0:
        ready = dict(poller.poll(int(left * 1000) + 1))
        if connection.socket in ready:
            answer = decode(connection.socket.recv_multipart()[0])
            if isinstance(answer, wire.Refused):
                raise error_from_wire(answer.error)
            return answer
        if connection.monitor in ready and connection.is_down():
            raise ServiceUnavailable(f"{who} on {record.host} closed the connection")
    raise ServiceUnavailable(f"{who} on {record.host} did not answer within {door.answer_s:g} s")
