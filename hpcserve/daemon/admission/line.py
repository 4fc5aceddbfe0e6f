"""Admission's line to the broker. A new connection announces itself, and the broker answers that it is up."""

from __future__ import annotations

import zmq

from hpcserve.daemon.admission.door import Context
from hpcserve.wire import hub
from hpcserve.wire.frames import decoder, encode

NAME = b"admission"
RECONNECT_MS = 50


class Line:
    """A DEALER to the broker's internal socket, and its monitor."""

    def __init__(self, context: Context, address: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.set_hwm(0)
        self.socket.routing_id = NAME
        self.socket.immediate = True
        self.socket.probe_router = True
        self.socket.reconnect_ivl = RECONNECT_MS
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.connect(address)
        self._decode = decoder(hub.ToAdmission)

    def receive(self) -> hub.ToAdmission | None:
        """The next message, or None when there is none now."""
        try:
            message: hub.ToAdmission = self._decode(self.socket.recv(zmq.DONTWAIT))
        except zmq.Again:
            return None
        return message

    def send(self, message: hub.ToBroker) -> bool:
        """Tells the broker; False when it is not connected."""
        try:
            self.socket.send(encode(message), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def lost(self) -> bool:
        """Whether the broker's end of the line was closed, since this was asked last."""
        lost = False
        while self.monitor.poll(0):
            self.monitor.recv_multipart()
            lost = True
        return lost

    def close(self) -> None:
        """Closes the line."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close()
