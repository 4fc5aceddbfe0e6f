"""Carries the bytes of several sockets over one pair of descriptors, in frames of :mod:`hpcserve.wire.tunnel`.

The same for both sides of a tunnel. One thread owns it and calls :meth:`Pump.step`. The two directions do not wait for
each other: while what leaves is stuck no socket is read, while a socket takes nothing what arrives is not read. So
nothing is held but one read's worth each way.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable

from hpcserve.errors import ProtocolError
from hpcserve.wire.tunnel import Decoder, Frame, Kind, header

READ_BYTES = 256 << 10
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class _Channel:
    """One socket, and what it has not taken yet."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.held = b""
        self.closing = False


class Pump:
    """Both directions of a tunnel.

    Args:
        incoming: The descriptor that frames come from.
        outgoing: The descriptor that they go to.
        take: Is called with each frame that is neither DATA, CLOSE, PING nor PONG.
        closed: Is called with the number of a channel that the other side has closed, and its reason.

    Attributes:
        ended: Why no more frames come; None as long as they do. Empty: the stream ended.
        heard_at: When something last came, or was not read although it might have, in monotonic seconds.
    """

    def __init__(
        self, incoming: int, outgoing: int, take: Callable[[Frame], None], closed: Callable[[int, str], None]
    ) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._take, self._closed = take, closed
        self._decoder = Decoder()
        self._leaving: deque[memoryview] = deque()
        self._channels: dict[int, _Channel] = {}
        self._stuck: set[int] = set()
        # poll(2): epoll(7) refuses files and /dev/null, which may be a standard input.
        self._selector = selectors.PollSelector()
        self._wanted: dict[int, int] = {}
        self.ended: str | None = None
        self.heard_at = time.monotonic()
        for descriptor in {incoming, outgoing}:
            os.set_blocking(descriptor, False)
        self._turn()

    @property
    def channels(self) -> int:
        """How many sockets are open."""
        return len(self._channels)

    @property
    def is_flushed(self) -> bool:
        """Whether all that was said has left."""
        return not self._leaving

    def watch(self, descriptor: int, ready: Callable[[], None]) -> None:
        """Has ``ready`` called when a descriptor of somebody else's may be read."""
        self._selector.register(descriptor, READ, lambda _: ready())

    def unwatch(self, descriptor: int) -> None:
        """Ends :meth:`watch`."""
        self._selector.unregister(descriptor)

    def add(self, number: int, end: socket.socket) -> None:
        """A new channel, whose socket is ours from now on."""
        end.setblocking(False)
        self._channels[number] = _Channel(end)
        self._turn()

    def say(self, kind: Kind, channel: int, payload: bytes = b"") -> None:
        """Sends a frame."""
        self._leaving.append(memoryview(header(kind, channel, len(payload)) + payload))
        self._flush()
        self._turn()

    def hear(self, data: bytes) -> None:
        """Takes in what was read elsewhere, before there was a pump."""
        self._hear(data)
        self._turn()

    def step(self, timeout_s: float) -> None:
        """Waits for something to do, and does it."""
        for key, events in self._selector.select(timeout_s):
            key.data(events)
        self._turn()

    def close(self) -> None:
        """Closes the sockets; the descriptors are their owner's."""
        for channel in self._channels.values():
            _shut(channel.end)
        self._channels.clear()
        self._selector.close()

    # --- from the sockets to the other side -----------------------------------------------------------

    def _read(self, number: int) -> None:
        channel = self._channels[number]
        try:
            data = channel.end.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # the peer is gone, as with an end of the stream
            data = b""
        if not data:
            self._drop(number)
            self.say(Kind.CLOSE, number)
            return
        self._leaving.append(memoryview(header(Kind.DATA, number, len(data))))
        self._leaving.append(memoryview(data))
        self._flush()

    def _flush(self) -> None:
        while self._leaving:
            try:
                written = os.writev(self._outgoing, list(self._leaving)[:16])
            except BlockingIOError:
                return
            except OSError as error:
                self._end(error.strerror or "")
                return
            while self._leaving and written >= len(self._leaving[0]):
                written -= len(self._leaving.popleft())
            if written:
                self._leaving[0] = self._leaving[0][written:]

    # --- from the other side to the sockets -----------------------------------------------------------

    def _arrive(self) -> None:
        try:
            data = os.read(self._incoming, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error.strerror or "")
            return
        if data:
            self._hear(data)
        else:
            self._end("")

    def _hear(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        try:
            for frame in self._decoder.feed(data):
                if frame.kind == Kind.DATA:
                    self._give(frame.channel, frame.payload)
                elif frame.kind == Kind.CLOSE:
                    self._close(frame.channel, frame.payload.decode(errors="replace"))
                elif frame.kind == Kind.PING:
                    self.say(Kind.PONG, 0)
                elif frame.kind != Kind.PONG:
                    self._take(frame)
        except ProtocolError as error:
            self._end(str(error))

    def _give(self, number: int, data: bytes) -> None:
        channel = self._channels.get(number)
        if channel is None or channel.closing:  # closed here, and what was on its way still comes
            return
        channel.held = channel.held + data if channel.held else data
        self._drain(number)

    def _drain(self, number: int) -> None:
        channel = self._channels[number]
        try:
            with contextlib.suppress(BlockingIOError):
                channel.held = channel.held[channel.end.send(channel.held) :]
        except OSError:
            self._drop(number)
            self.say(Kind.CLOSE, number)
            return
        if channel.held:
            self._stuck.add(number)
            return
        self._stuck.discard(number)
        if channel.closing:
            self._drop(number)

    def _close(self, number: int, reason: str) -> None:
        channel = self._channels.get(number)
        if channel is not None:
            channel.closing = True
            if not channel.held:
                self._drop(number)
            self._closed(number, reason)

    def _drop(self, number: int) -> None:
        channel = self._channels.pop(number)
        self._stuck.discard(number)
        self._want(channel.end.fileno(), 0, None)
        _shut(channel.end)

    # --- what to wait for -----------------------------------------------------------------------------

    def _end(self, why: str) -> None:
        if self.ended is None:
            self.ended = why
        self._leaving.clear()

    def _turn(self) -> None:
        """Waits for what can be done now."""
        going = self.ended is None
        arriving = going and not self._stuck
        if not arriving:
            self.heard_at = time.monotonic()
        waits = {self._incoming: READ if arriving else 0}
        waits[self._outgoing] = waits.get(self._outgoing, 0) | (WRITE if self._leaving else 0)
        for descriptor, events in waits.items():
            self._want(descriptor, events, self._both)
        for number, channel in list(self._channels.items()):
            events = (WRITE if number in self._stuck else 0) | (
                READ if going and not self._leaving and not channel.closing else 0
            )
            self._want(channel.end.fileno(), events, self._ready(number))

    def _both(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & READ:
            self._arrive()

    def _ready(self, number: int) -> Callable[[int], None]:
        def ready(events: int) -> None:
            if events & WRITE and number in self._channels:
                self._drain(number)
            if events & READ and number in self._channels:
                self._read(number)

        return ready

    def _want(self, descriptor: int, events: int, ready: Callable[[int], None] | None) -> None:
        before = self._wanted.get(descriptor, 0)
        if events == before:
            return
        if not events:
            self._selector.unregister(descriptor)
            del self._wanted[descriptor]
        elif before:
            self._selector.modify(descriptor, events, ready)
            self._wanted[descriptor] = events
        else:
            self._selector.register(descriptor, events, ready)
            self._wanted[descriptor] = events


def _shut(end: socket.socket) -> None:
    """Ends the connection, although a forked process may have the socket as well."""
    with contextlib.suppress(OSError):  # its peer has done so
        end.shutdown(socket.SHUT_RDWR)
    end.close()
