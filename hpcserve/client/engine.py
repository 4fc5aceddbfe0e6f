"""The client's side of the protocol on one connection at a time; :class:`Client` and :class:`AsyncClient` drive it.

Not thread-safe: whoever drives it holds the lock, or is the only thread. It never blocks. What the
protocol must not lose is kept by :class:`hpcserve.core.caller.Caller`, across connections.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from zmq.backend import Socket as PlainSocket

from hpcserve.client.call import AdminCall, Inference, Pending
from hpcserve.client.dial import Connection
from hpcserve.client.fetching import Fetching
from hpcserve.client.streaming import Streaming, Streams
from hpcserve.core.caller import Caller
from hpcserve.core.tiers import AUTO
from hpcserve.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    HpcserveError,
    InvalidInput,
    Overloaded,
    ServiceUnavailable,
)
from hpcserve.types import Counter
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decode_to_client, encode, error_from_wire
from hpcserve.wire.tensor import Frame

SMALL_BYTES = 16 << 10
ACK_AT_ONCE_BYTES = 1 << 20
DRAIN = 256
NONCE_BYTES = 16
NO_LIMIT_YET = 1 << 62
ASK_DOCTOR = "; see: hpcserve doctor"
FAREWELL_MS = 500  # so long BYE may take to leave
_MORE = zmq.SNDMORE | zmq.NOBLOCK
# pyzmq 27: Socket.send first looks at what only draft sockets have, at half the price of a send; and arguments by
# name cost a receive a sixth.
plain_send: Callable[..., object] = PlainSocket.send
plain_receive: Callable[..., Any] = PlainSocket.recv


class Engine:
    """What one client process waits for, and the connection by which it comes."""

    def __init__(self) -> None:
        self.nonce = os.urandom(NONCE_BYTES)
        self.caller = Caller()
        self.connection: Connection | None = None
        self.refused: HpcserveError | None = None
        self.finished: deque[Pending] = deque()
        self.streams = Streams(self.caller, self._tell, self._finish)
        self._admin: dict[int, AdminCall] = {}
        self._next_admin = 1
        self._unacked_bytes = 0
        self._ack_at_bytes = ACK_AT_ONCE_BYTES
        self._highest_sent = 0
        self._burst = 1
        self._heard = 0
        self.session_bytes = NO_LIMIT_YET
        self.fetching = Fetching()

    @property
    def waiting(self) -> int:
        """How many calls have no answer yet."""
        return len(self.caller) + len(self._admin)

    # --- what a caller wants --------------------------------------------------------------------------

    def infer(self, call: Inference) -> Counter:
        """Sends a request now, or when there is a connection.

        Raises:
            InvalidInput: The service would never take so many bytes.
            Conflict: The result is to be brought to a collection, and the service brings none anywhere.
        """
        if call.sending is not None and self.connection is not None and not self.fetching.transfers:
            raise Conflict(
                "this service brings no results to collections: it lets nobody in by Globus, or its staging.directory "
                "is on none of its staging.collections; ask its operator, and leave the destination out"
            )
        size_bytes = 0 if call.enclosed else sum(map(len, call.frames))
        if size_bytes > self.session_bytes:
            raise InvalidInput(
                f"the inputs of {call.endpoint!r} have {size_bytes} bytes: at most {self.session_bytes} may be on "
                "their way for one client; send them in parts"
            )
        call.fetching = self.fetching
        id = self.caller.start(call, call.deadline)
        if self.connection is not None:
            self._send_request(id, call, 0)
        return id

    def stream(self, call: Streaming) -> Counter:
        """As :meth:`infer`, for the call of a stream."""
        id = self.infer(call)
        self.streams.started(id, call)
        return id

    def admin(self, call: AdminCall) -> None:
        """Sends an administrative call now, or when there is a connection."""
        id = self._next_admin
        self._next_admin += 1
        self._admin[id] = call
        self._send_admin(id, call)

    def cancel(self, id: Counter) -> bool:
        """Takes a request back; False when it was answered before."""
        call = self.caller.settle(id)
        if not isinstance(call, Inference):
            return False
        call.error = Cancelled("the caller took the request back")
        self._finish(call)
        self.acknowledge()
        return True

    def bye(self) -> None:
        """Ends the session; whoever still waits is told."""
        if self.connection is not None:
            self._say(encode(wire.Bye()))
            self.connection.close(linger_ms=FAREWELL_MS)
            self.connection = None
        self.fail_all(Cancelled("the client was closed before the answer came; wait for answers before you close it"))

    # --- connections ----------------------------------------------------------------------------------

    def waits_for(self) -> tuple[int, tuple[Counter, ...]]:
        """What RESUME says: only what was sent before can be held anywhere."""
        sent = tuple(id for id in self.caller.outstanding if id <= self._highest_sent)
        return self.caller.floor, sent

    def connected(self, connection: Connection, told: tuple[int, tuple[Counter, ...]]) -> None:
        """The session was resumed; ``told`` is what RESUME said was outstanding: the rest is sent now."""
        self.connection = connection
        self.session_bytes = connection.session_bytes
        self.fetching.connected(connection.ways, https_bytes=connection.https_bytes, transfers=connection.transfers)
        self._ack_at_bytes = min(ACK_AT_ONCE_BYTES, self.session_bytes // 4)
        self.refused = None
        known = set(told[1])
        for id in self.caller.outstanding:
            call = self.caller.get(id)
            if id not in known and isinstance(call, Inference):
                self._send_request(id, call, 0)
        for number, admin in self._admin.items():
            self._send_admin(number, admin)
        self.streams.connected()

    def lost(self) -> None:
        """The connection is gone."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def leave_if_succeeded(self) -> None:
        """Gives the connection up when nothing comes and another daemon has taken over, which is to be asked then.

        To be called several times a second while something is waited for, by whoever reads.
        """
        successor = None if self.connection is None else self.connection.successor
        if successor is not None and successor.is_there(self._heard, waits=self.waiting > 0):
            self.lost()

    def fail_all(self, error: HpcserveError) -> None:
        """Nothing that is waited for will come."""
        for id in self.caller.outstanding:
            call = self.caller.settle(id)
            assert isinstance(call, Inference), "the caller keeps inferences"
            call.error = error
            self._finish(call)
        for admin in self._admin.values():
            admin.error = error
            self._finish(admin)
        self._admin.clear()

    # --- what the socket says -------------------------------------------------------------------------

    def drain(self, until: Pending | None = None, *, woken: bool = False) -> bool:
        """Takes in what has arrived. Looks no further when this call is answered and nothing else is waited for.

        ``woken``: the socket's descriptor has told of something. Then as many messages as came the last time are
        taken without asking for each: a question costs a fourth of what a receive in vain does.

        Returns:
            Whether more may have arrived, for which the socket's descriptor will not wake anybody.
        """
        connection = self.connection
        if connection is None:
            return False
        surely = self._burst if woken else 0
        for taken in range(DRAIN):
            message = _received(connection.socket) if taken < surely or connection.has_message() else None
            if message is None:
                self._burst = max(1, taken)
                return False
            self._heard += 1
            self._take(*message)
            if self.connection is None or (until is not None and until.done and not self.caller):
                return False
        return True

    def _take(self, header: bytes, frames: list[Frame], size_bytes: int) -> None:
        message = decode_to_client(header)
        if type(message) is wire.Result:
            if message.error is not None and self._comes_again(message.id, message.error):
                return
            if self.streams and self.streams.ended(message):
                return
            call = self.caller.settle(message.id)
            if isinstance(call, Inference):
                call.finish(message, message.enclosed or frames)
                self._finish(call)
            self._unacked_bytes += size_bytes
            if self._unacked_bytes >= self._ack_at_bytes:
                self.acknowledge()
        else:
            self._take_other(message, frames)

    def _take_other(self, message: wire.ToClient, frames: list[Frame]) -> None:
        """What comes less often than a result."""
        if type(message) is wire.Items:
            self.streams.take(message, frames)
        elif type(message) is wire.SendAgain:
            for id in message.ids:
                wanted = self.caller.get(id)
                if isinstance(wanted, Inference) and not self.streams.cannot_repeat(id, wanted):
                    self._send_request(id, wanted, 1)
        elif type(message) is wire.Answer:
            admin = self._admin.pop(message.id, None)
            if admin is not None:
                admin.finish(message)
                self._finish(admin)
        elif type(message) is wire.WhoAreYou:
            self.lost()
        elif type(message) is wire.Refused:
            self.refused = error_from_wire(message.error)
            self.lost()

    def _comes_again(self, id: Counter, error: wire.ErrorInfo) -> bool:
        """Whether a request that was refused for now is sent again later."""
        if error.code != Overloaded.code or error.retry_after_ms is None:
            return False
        call = self.caller.get(id)
        if not isinstance(call, Inference):
            return False
        call.refusal = error
        return self.caller.refused(id, error.retry_after_ms / 1000, random.random(), time.monotonic())

    def send_due(self) -> None:
        """Sends the refused requests again that were to wait until now."""
        if self.connection is not None:
            for id in self.caller.due(time.monotonic()):
                call = self.caller.get(id)
                if isinstance(call, Inference):
                    call.refusal = None
                    self._send_request(id, call, 0)

    def expire(self) -> None:
        """Ends the calls whose deadline is over."""
        now = time.monotonic()
        if self.streams and self.connection is not None:
            self.streams.look(now)
        why = "" if self.connection is not None else "; there was no connection to the daemon"
        expired = self.caller.expired(now)
        for id in expired:
            call = self.caller.settle(id)
            assert isinstance(call, Inference), "the caller keeps inferences"
            call.error = (
                DeadlineExceeded(f"no answer from endpoint {call.endpoint!r} within its deadline{why}")
                if call.refusal is None
                else error_from_wire(call.refusal)
            )
            self._finish(call)
        if expired:
            self.acknowledge()  # at once, so that what has not begun is not run for nobody
        for number in [number for number, admin in self._admin.items() if admin.deadline <= now]:
            admin = self._admin.pop(number)
            admin.error = ServiceUnavailable(f"{admin.verb}: no answer from the daemon in time{why}{ASK_DOCTOR}")
            self._finish(admin)

    def acknowledge(self) -> None:
        """Tells the broker what was settled since it was last told."""
        if self.connection is not None and self.caller.owes_ack:
            self._unacked_bytes = 0
            self._say(encode(wire.Ack(*self.caller.take_acks())))

    # --- inside ---------------------------------------------------------------------------------------

    def _finish(self, call: Pending) -> None:
        call.done = True
        self.finished.append(call)

    def _send_request(self, id: Counter, call: Inference, attempt: int) -> None:
        assert self.connection is not None, "asked only while connected"
        remaining_ms = call.remaining_ms()
        if remaining_ms == 0:
            return  # it ends here
        floor, acks = self.caller.take_acks()
        self._unacked_bytes = 0
        self._highest_sent = max(self._highest_sent, id)
        header = wire.Request(
            id,
            call.endpoint,
            call.method,
            call.specs,
            call.parameters,
            remaining_ms,
            call.priority,
            attempt,
            None,
            self.fetching.replies[call.large is not None] if call.reply == AUTO else call.reply,
            floor,
            acks,
            call.enclosed,
            call.window,
            call.references,
        )
        self._say(encode(header), () if call.enclosed else call.frames)

    def _tell(self, header: bytes) -> None:
        if self.connection is not None:
            self._say(header)

    def _say(self, header: bytes, frames: Sequence[Frame] = ()) -> None:
        """Sends a message. On a connection that has just gone it is dropped: the monitor tells, RESUME makes up.

        Never waits: a socket whose only peer is gone would wait for ever.
        """
        assert self.connection is not None, "asked only while connected"
        socket = self.connection.socket
        try:
            plain_send(socket, header, _MORE if frames else zmq.NOBLOCK)
            last = len(frames) - 1
            for index, frame in enumerate(frames):
                plain_send(socket, frame, _MORE if index < last else zmq.NOBLOCK, copy=len(frame) <= SMALL_BYTES)
        except zmq.Again:
            return

    def _send_admin(self, id: int, call: AdminCall) -> None:
        if self.connection is not None:
            self._say(encode(wire.Call(id, call.verb, call.body)))


def _received(socket: zmq.Socket[bytes]) -> tuple[bytes, list[Frame], int] | None:
    """The next message: header, frames, and their bytes together; None when there is none now."""
    try:
        frame: zmq.Frame = plain_receive(socket, zmq.NOBLOCK, False)
    except zmq.Again:
        return None
    header = frame.bytes
    frames: list[Frame] = []
    size_bytes = len(header)
    while frame.more:
        frame = plain_receive(socket, 0, False)
        length = len(frame)
        size_bytes += length
        frames.append(frame.bytes if length <= SMALL_BYTES else frame.buffer)
    return header, frames, size_bytes
