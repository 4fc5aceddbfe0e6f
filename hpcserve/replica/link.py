"""A replica's connection to the broker: one socket for one connection, a new one after each loss.

What was under way on a lost connection is lost with it; the INVENTORY on the next one settles it. The
service record is read anew each time, because the daemon may have moved (design §3a). One that stands still is
connected to all the same, for its host's kernel accepts, and one whose host is gone never answers: so an attempt has
little time.
"""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zmq
from zmq.backend import Socket as PlainSocket

from hpcserve.errors import ConfigError, ServiceUnavailable
from hpcserve.wire.monitor import decode_event
from hpcserve.wire.record import decode_record
from hpcserve.wire.tensor import Frame

SMALL_BYTES = 4096
_MORE = zmq.SNDMORE | zmq.NOBLOCK
# pyzmq 27: Socket.send first looks at what only draft sockets have, at half the price of a send; and arguments by
# name cost a receive a sixth.
plain_send: Callable[..., object] = PlainSocket.send
plain_receive: Callable[..., Any] = PlainSocket.recv
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 2.0
HANDSHAKE_MS = 4_000
"""How long a connection and its handshake may take: with a pause, far less than a new broker waits for its replicas."""
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 3_000, 4_500  # the broker's own, more frequent ones reach us too

_UP = zmq.Event.HANDSHAKE_SUCCEEDED
_DOWN = (
    zmq.Event.DISCONNECTED
    | zmq.Event.CLOSED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)

Tensor = Frame


class Link:
    """The socket, if there is one now, and when to try again if not."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], record: Path, public_key: bytes, secret_key: bytes
    ) -> None:
        self._context = context
        self._record = record
        self._keys = (public_key, secret_key)
        self._wait_s = FIRST_WAIT_S
        self._retry_at = 0.0
        self._jitter = random.Random()
        self.socket: zmq.Socket[bytes] | None = None
        self.monitor: zmq.Socket[bytes] | None = None
        self.is_up = False

    def connect(self) -> None:
        """Opens a socket where the service record says, if it is time to."""
        if self.socket is not None or time.monotonic() < self._retry_at:
            return
        try:
            record = decode_record(self._record.read_bytes(), str(self._record))
        except (OSError, ConfigError, ServiceUnavailable) as error:
            sys.stderr.write(f"no daemon to connect to: {error}\n")
            self._postpone()
            return
        socket = self._context.socket(zmq.DEALER)
        socket.set_hwm(0)
        socket.linger = 0
        socket.reconnect_ivl = -1
        socket.connect_timeout = socket.handshake_ivl = HANDSHAKE_MS
        address = record.back_address(os.uname().nodename, _may_open)
        socket.ipv6 = "[" in address
        if not address.startswith("ipc:"):  # a Unix socket's connection ends with the broker, and not before
            socket.heartbeat_ivl = HEARTBEAT_MS
            socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        socket.curve_serverkey = record.public_key.encode()
        socket.curve_publickey, socket.curve_secretkey = self._keys
        self.monitor = socket.get_monitor_socket(int(_UP | _DOWN))
        self.socket = socket
        socket.connect(address)

    def watch(self) -> bool:
        """Reads the monitor; True when the connection has just come up."""
        came_up = False
        while self.monitor is not None and self.monitor.poll(0):
            event = decode_event(self.monitor.recv_multipart()).event
            if event == _UP:
                self._wait_s = FIRST_WAIT_S
                self.is_up = came_up = True
            elif event & _DOWN:
                self.close()
                came_up = False
        return came_up

    def close(self) -> None:
        """Gives the connection up; the next one is opened after a pause that grows and varies."""
        if self.socket is not None and self.monitor is not None:
            self.socket.disable_monitor()
            self.monitor.close(linger=0)
            self.socket.close()
        self.socket = self.monitor = None
        self.is_up = False
        self._postpone()

    def _postpone(self) -> None:
        self._retry_at = time.monotonic() + self._wait_s * self._jitter.uniform(0.5, 1.0)
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)

    def timeout_ms(self) -> int | None:
        """How long the loop may sleep before :meth:`connect` must be called again."""
        if self.socket is not None:
            return None
        return max(0, math.ceil((self._retry_at - time.monotonic()) * 1000))

    def has_message(self) -> bool:
        """Whether a message waits."""
        return self.socket is not None and bool(zmq.zmq_poll([(self.socket, zmq.POLLIN)], 0))

    def receive(self) -> tuple[bytes, list[Tensor]] | None:
        """The next message: its header and its tensors' frames; None when there is none now."""
        assert self.socket is not None, "the loop reads while the connection is up"
        try:
            frame: zmq.Frame = plain_receive(self.socket, zmq.NOBLOCK, False)
        except zmq.Again:
            return None
        header = frame.bytes
        tensors: list[Tensor] = []
        while frame.more:
            frame = plain_receive(self.socket, 0, False)
            tensors.append(frame.bytes if len(frame) <= SMALL_BYTES else frame.buffer)
        return header, tensors

    def send(self, header: bytes, tensors: Sequence[Tensor] = ()) -> None:
        """Sends a message. Without a connection it is dropped: the INVENTORY will make up for it.

        Never waits: a socket whose only peer is gone would wait for ever.
        """
        socket = self.socket
        if socket is None:
            return
        try:
            plain_send(socket, header, _MORE if tensors else zmq.NOBLOCK)
            last = len(tensors) - 1
            for index, tensor in enumerate(tensors):
                plain_send(socket, tensor, _MORE if index < last else zmq.NOBLOCK, copy=type(tensor) is bytes)
        except zmq.Again:
            return


def _may_open(path: str) -> bool:
    return os.access(path, os.R_OK | os.W_OK)
