"""ZeroMQ's question at each CURVE handshake, "may this key in?", answered in a plain poll loop.

libzmq asks over ``inproc://zeromq.zap.01`` and lets nobody in before the answer. Where there is no handler
it lets everybody in, so make the handler before the first socket is bound, and set ``zap_enforce_domain``
on the sockets. Whatever goes wrong here denies. Asked at the handshake only: who is inside stays inside.

Source: https://rfc.zeromq.org/spec/27/
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import zmq

from hpcserve.auth.keys import KEY_BYTES

_log = logging.getLogger(__name__)

ADDRESS = "inproc://zeromq.zap.01"

Decide = Callable[[bytes, str, str], "str | None"]
"""(public key as 32 bytes, the peer's address, the socket's ZAP domain) → its User-Id, or None to deny."""


class ZapHandler:
    """Answers all questions of one context. One in a context.

    Args:
        context: The context whose sockets ask.
        decide: Whom to let in, and under what User-Id: at most 255 bytes, which the receiver of a message
            finds in ``frame.get("User-Id")``.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], decide: Decide) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(ADDRESS)
        self._decide = decide

    def handle(self) -> None:
        """Answers every question that waits. Call it when ``socket`` is readable."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            answer = self._answer(frames)
            if answer is not None:
                self.socket.send_multipart(answer, zmq.DONTWAIT)

    def close(self) -> None:
        """Lets no one in any more: libzmq finds nobody to ask."""
        self.socket.close()

    def _answer(self, frames: Sequence[bytes]) -> list[bytes] | None:
        """The reply to ``[asker, "", version, id, domain, address, routing id, mechanism, key]``."""
        if len(frames) < 4 or frames[1]:
            _log.warning("a ZAP request of %d frames is dropped", len(frames))
            return None
        status, text, user = self._verdict(frames[2:])
        return [frames[0], b"", b"1.0", frames[3], status, text, user, b""]

    def _verdict(self, request: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
        if len(request) != 7 or request[0] != b"1.0" or request[5] != b"CURVE" or len(request[6]) != KEY_BYTES:
            return b"400", b"not a CURVE request of ZAP 1.0", b""
        try:
            domain, address = request[2].decode(), request[3].decode()
        except ValueError:
            return b"400", b"malformed domain or address", b""
        try:
            user = self._decide(request[6], address, domain)
        except Exception:  # noqa: BLE001 (fail closed: a defect of ours must let nobody in, nor end the loop)
            _log.exception("a key is denied, because it could not be judged")
            return b"500", b"internal error", b""
        if user is None:
            return b"400", b"this key is not let in", b""
        return b"200", b"OK", user.encode()
