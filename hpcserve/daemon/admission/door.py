"""Admission's public socket. Any key may connect; what it may say, the desk decides.

libzmq bounds a frame's size and a handshake's time, but neither the number of frames nor the number of
connections: these are bounded by the process's limits, and by its being allowed to die (design §3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import zmq

from hpcserve.auth.keys import KeyPair, from_z85, to_z85
from hpcserve.auth.zap import ZapHandler
from hpcserve.daemon.ports import bind
from hpcserve.wire.frames import encode
from hpcserve.wire.messages import FromAdmission

Context = zmq.Context[zmq.Socket[bytes]]

MAX_FRAME_BYTES = 64 << 10
MAX_FRAMES = 4
"""A message of more frames is dropped without an answer."""
QUEUED = 16
"""Messages in each direction that libzmq keeps for one connection."""
BACKLOG = 4096
HANDSHAKE_MS = 5_000
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 10_000, 30_000


class Said(NamedTuple):
    """One message from outside. ``frames`` is empty where it had more than MAX_FRAMES; ``peer`` is an address."""

    connection: bytes
    key: bytes
    frames: list[bytes]
    peer: str


class Door:
    """The socket and its ZAP handler, which lets every key in and notes it."""

    def __init__(self, context: Context, keys: KeyPair) -> None:
        self.zap = ZapHandler(context, lambda key, address, domain: to_z85(key))
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.set_hwm(QUEUED)
        self.socket.maxmsgsize = MAX_FRAME_BYTES
        self.socket.backlog = BACKLOG
        self.socket.handshake_ivl = HANDSHAKE_MS
        self.socket.heartbeat_ivl = HEARTBEAT_MS
        self.socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        self.socket.heartbeat_ttl = HEARTBEAT_TIMEOUT_MS
        self.socket.curve_server = True
        self.socket.curve_secretkey = keys.secret
        self.socket.zap_domain = b"admission"
        self.socket.zap_enforce_domain = True

    def bind(self, host: str, ports: Sequence[int]) -> str:
        """Binds to the first of the ``ports`` that is free (0: any); returns the address.

        Raises:
            HpcserveError: None of them is.
        """
        return bind(self.socket, "admission", host, ports)

    def receive(self) -> Said | None:
        """The next message, or None when there is none now."""
        try:
            connection = self.socket.recv(zmq.DONTWAIT)
        except zmq.Again:
            return None
        frames: list[bytes] = []
        count = 0
        while True:
            frame = self.socket.recv(copy=False)
            count += 1
            if count <= MAX_FRAMES:
                frames.append(frame.bytes)
            if not frame.more:
                break
        key = from_z85(str(frame.get("User-Id")))
        return Said(connection, key, frames if count <= MAX_FRAMES else [], str(frame.get("Peer-Address")))

    def send(self, connection: bytes, message: FromAdmission) -> None:
        """Answers. Who is gone, or does not read, gets nothing."""
        self.socket.send_multipart([connection, encode(message)], zmq.DONTWAIT)

    def close(self) -> None:
        """Closes the socket."""
        self.socket.close()
        self.zap.close()
