"""The far side of a tunnel: beside the daemon, or at least where its addresses can be reached.

Standard input and output are the tunnel. It reads the service record when it starts and whenever it is asked, and
connects to the sockets that the record names; what goes through it is encrypted for the daemon, not for it. The record
is read in a thread of its own: while its file system stands still, bytes are carried all the same.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import hpcserve
from hpcserve.client.pump import Pump
from hpcserve.client.ways import may_open
from hpcserve.errors import HpcserveError, ProtocolError, ServiceUnavailable
from hpcserve.wire.frames import error_to_wire
from hpcserve.wire.record import ServiceRecord
from hpcserve.wire.tunnel import (
    ANSWER,
    MARKER,
    TUNNEL_VERSIONS,
    Frame,
    Greeting,
    Kind,
    Preamble,
    decode_answer,
    encode_greeting,
)

CONNECT_S = 4.0
ANSWER_S = 60.0
LOOK_S = 15.0
SILENT_S = 120.0  # a client that lives says something every 15 s
STDIN, STDOUT = 0, 1
# A daemon's host that lost its power is noticed after about 20 s. Source: tcp(7).
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2), ("TCP_USER_TIMEOUT", 20_000))


class FarSide:
    """One client's tunnel to the daemon.

    Args:
        find: Reads the record as it is now, or raises why there is none.
    """

    def __init__(self, find: Callable[[], ServiceRecord]) -> None:
        self._find = find
        self._record: ServiceRecord | None = None
        self._pump: Pump
        self._asked = 0  # so many questions for the record are not answered
        self._was_read, self._tell_read = os.pipe()
        self._read: tuple[ServiceRecord | None, bytes] = (None, b"")

    def run(self) -> None:
        """Carries bytes until the client goes.

        Raises:
            ProtocolError: What comes is not from a client.
        """
        self._record, greeting = self._greeting()
        _write(b"\n" + MARKER + greeting + b"\n")
        rest = _answered()
        if rest is None:
            return
        self._pump = Pump(STDIN, STDOUT, self._take, lambda _number, _reason: None)
        self._pump.watch(self._was_read, self._answer)
        self._pump.hear(rest)
        try:
            while self._pump.ended is None and time.monotonic() - self._pump.heard_at < SILENT_S:
                self._pump.step(LOOK_S)
        finally:
            self._pump.close()
        if self._pump.ended:
            raise ProtocolError(f"the client's side failed: {self._pump.ended}")

    def _greeting(self) -> tuple[ServiceRecord | None, bytes]:
        """The record, read now, and what is told of it."""
        record, error = None, None
        try:
            record = self._find()
        except HpcserveError as found:
            error = error_to_wire(found)
        software = f"hpcserve {hpcserve.__version__}"
        return record, encode_greeting(
            Greeting(versions=TUNNEL_VERSIONS, software=software, record=record, error=error)
        )

    def _read_beside(self) -> None:
        self._read = self._greeting()
        os.write(self._tell_read, b"r")

    def _answer(self) -> None:
        """The record has been read; who has asked meanwhile is to know how it is from now on."""
        os.read(self._was_read, 1)
        self._record, greeting = self._read
        self._pump.say(Kind.RECORD, 0, greeting)
        self._asked -= 1
        if self._asked:
            self._begin_to_read()

    def _begin_to_read(self) -> None:
        threading.Thread(target=self._read_beside, name="hpcserve-record", daemon=True).start()

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.READ:
            self._asked += 1
            if self._asked == 1:
                self._begin_to_read()
        elif frame.kind == Kind.OPEN:
            try:
                self._pump.add(frame.channel, self._connected(frame.payload))
            except HpcserveError as error:
                self._pump.say(Kind.CLOSE, frame.channel, error.message.encode())

    def _connected(self, what: bytes) -> socket.socket:
        """A connection to one of the daemon's sockets.

        Raises:
            ServiceUnavailable: There is none.
        """
        record = self._record
        if record is None:
            raise ServiceUnavailable("there is no service record")
        if (
            what == b"front"
            and record.host == os.uname().nodename
            and record.front_file
            and may_open(record.front_file)
        ):
            return _to_file(record.front_file)
        addresses = {b"admission": record.admission, b"front": record.front}.get(what)
        if addresses is None:
            raise ServiceUnavailable(f"no socket of the daemon is called {what!r}; upgrade hpcserve there")
        return _to_address(addresses[0], record)


def _to_file(path: str) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.connect(path)
    except OSError as error:
        end.close()
        raise ServiceUnavailable(f"no daemon answers at {path}: {error.strerror}") from error
    return end


def _to_address(address: str, record: ServiceRecord) -> socket.socket:
    here, found = os.uname().nodename, urlsplit(address)
    try:
        end = socket.create_connection((found.hostname or "", found.port or 0), CONNECT_S)
    except (OSError, ValueError) as error:
        raise ServiceUnavailable(
            f"{here} cannot reach the daemon at {address} on {record.host}: {error}" + _advice(here, record)
        ) from error
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return end


def _advice(here: str, record: ServiceRecord) -> str:
    if here == record.host:
        return "; if it was killed, start it there again: hpcserve up"
    return (
        f"; log in to {record.host} itself, or have it listen where {here} reaches it: [network] host in its site file"
    )


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(STDOUT, data) :]


def _answered() -> bytes | None:
    """Waits for the client's answer; returns what came after it, or None when it has gone.

    Raises:
        ProtocolError: It is not a client that answers.
    """
    preamble = Preamble(ANSWER)
    until = time.monotonic() + ANSWER_S
    while (left := until - time.monotonic()) > 0:
        if not select.select([STDIN], [], [], left)[0]:
            continue
        data = os.read(STDIN, 1 << 16)
        if not data:
            return None
        found = preamble.feed(data)
        if found is not None:
            decode_answer(found[0])
            return found[1]
        if preamble.before:
            break
    raise ProtocolError(
        "expected a client of hpcserve on standard input; it is added by: hpcserve service add NAME ssh://…"
    )
