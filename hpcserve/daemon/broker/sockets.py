"""The broker's ROUTER sockets: their options, and whole messages in and out.

A message on a ROUTER is ``[sender, header, tensor, …]``. Small frames are copied into bytes, which is
cheaper than libzmq's shared messages; large ones pass through uncopied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import zmq
from zmq.backend import Socket as PlainSocket

from hpcserve.auth.keys import KeyPair
from hpcserve.wire.frames import MAX_TENSORS

SMALL_BYTES = 4096
HANDSHAKE_MS = 5_000
ENVELOPE_BYTES = 4096  # what ZMTP and CURVE add to a frame, with room
BACKLOG = 4096  # a Unix socket refuses at once what does not fit, and a job's ranks come all at the same moment
UNREAD = 256  # so many messages of one peer libzmq takes in before the broker has read any; TCP holds the rest back

# pyzmq 27: Socket.send first looks at what only draft sockets have, at half the price of a send; and arguments by
# name cost a receive a sixth.
plain_send: Callable[..., object] = PlainSocket.send
plain_receive: Callable[..., Any] = PlainSocket.recv

Tensor = bytes | zmq.Frame

_FIRST = zmq.SNDMORE | zmq.NOBLOCK


class Heartbeat(NamedTuple):
    """How often libzmq asks each peer over TCP whether it is there, and how long it waits for an answer."""

    every_ms: int
    timeout_ms: int


KEEPALIVE_S, KEEPALIVE_TRIES = 5, 3
"""A client's host that is gone is noticed after 20 s by TCP itself. ZeroMQ's heartbeats wait for whole frames: on a
slow line, one that takes longer than they wait would never arrive, however often it is sent (libzmq 4.3.5)."""
BACK_HEARTBEAT = Heartbeat(1_500, 3_000)
"""A node that lost its power is noticed by these two together, and ``recovery.unreachable_s``: in less than 10 s."""


class Incoming(msgspec.Struct, gc=False):
    """A message as it came. ``size_bytes`` counts its header too."""

    sender: bytes
    header: zmq.Frame
    tensors: list[Tensor]
    size_bytes: int
    too_many: bool


def router(
    context: zmq.Context[zmq.Socket[bytes]],
    keys: KeyPair | None,
    domain: bytes,
    *,
    heartbeat: Heartbeat | None = None,
    largest_bytes: int = 0,
    most_unread: int = 0,
) -> zmq.Socket[bytes]:
    """A ROUTER that says when a peer is gone, with CURVE where ``keys`` are given.

    Args:
        context: Where it is made.
        keys: The service's, for a socket that peers reach over TCP.
        domain: What ZAP is told.
        heartbeat: For a socket that peers reach over TCP. None: TCP's keepalive tells that a peer is gone.
        largest_bytes: A peer that sends a larger frame over TCP loses its connection.
        most_unread: A peer that has left so many messages unread is sent no more; 0: any number.
    """
    socket = context.socket(zmq.ROUTER)
    socket.set_hwm(0)  # what is sent is bounded by the budgets: a full queue would only hide what is too much
    socket.sndhwm = most_unread  # but refusals, which no budget counts
    socket.linger = 0
    socket.router_mandatory = True
    if keys is not None:
        socket.backlog = BACKLOG
        socket.rcvhwm = UNREAD
        socket.maxmsgsize = largest_bytes + ENVELOPE_BYTES
        socket.curve_server = True
        socket.curve_secretkey = keys.secret
        socket.zap_domain = domain
        socket.handshake_ivl = HANDSHAKE_MS
        if heartbeat is None:
            socket.tcp_keepalive, socket.tcp_keepalive_cnt = 1, KEEPALIVE_TRIES
            socket.tcp_keepalive_idle = socket.tcp_keepalive_intvl = KEEPALIVE_S
            socket.tcp_maxrt = (1 + KEEPALIVE_TRIES) * KEEPALIVE_S * 1000
        else:
            socket.heartbeat_ivl = heartbeat.every_ms
            socket.heartbeat_timeout = socket.heartbeat_ttl = heartbeat.timeout_ms
    else:
        socket.router_handover = True
    return socket


def bind_file(socket: zmq.Socket[bytes], path: str) -> None:
    """Binds a socket to a file, after all its other addresses, without heartbeats there.

    A Unix socket's connection ends with the process at its other end: a process that stands still is alive.
    """
    socket.heartbeat_ivl = 0  # libzmq copies the options at each bind: what is bound already keeps its own
    socket.bind(f"ipc://{path}")


def receive(socket: zmq.Socket[bytes]) -> Incoming | None:
    """The next whole message, or None when there is none now.

    The frames of one message past the header and MAX_TENSORS are read and dropped.
    """
    try:
        sender = plain_receive(socket, zmq.NOBLOCK)
    except zmq.Again:
        return None
    header: zmq.Frame = plain_receive(socket, 0, False)
    frame, size, too_many = header, len(header), False
    tensors: list[Tensor] = []
    while frame.more:
        frame = plain_receive(socket, 0, False)
        length = len(frame)
        size += length
        if len(tensors) == MAX_TENSORS:
            too_many = True
        else:
            tensors.append(frame.bytes if length <= SMALL_BYTES else frame)
    return Incoming(sender, header, tensors, size, too_many)


def send(socket: zmq.Socket[bytes], to: bytes, header: bytes, tensors: Sequence[Tensor] = ()) -> bool:
    """Sends a whole message; False when the peer is not connected any more, or has left too much unread."""
    more = zmq.SNDMORE
    try:
        plain_send(socket, to, _FIRST)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
            return False
        raise
    if not tensors:
        plain_send(socket, header)
        return True
    plain_send(socket, header, more)
    last = len(tensors) - 1
    for index, tensor in enumerate(tensors):
        plain_send(socket, tensor, more if index < last else 0, copy=type(tensor) is bytes)
    return True


def user_of(frame: zmq.Frame) -> str:
    """What ZAP said of the peer that sent the frame; empty without CURVE."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""


def address_of(frame: zmq.Frame) -> str:
    """The address that the peer that sent the frame has connected from; empty if it came by a Unix socket."""
    try:
        return str(frame.get("Peer-Address"))
    except zmq.ZMQError:
        return ""
