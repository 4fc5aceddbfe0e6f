"""The calls of streams, on the connection's side: what has come of each, and what the replica is told.

:class:`Streams` belongs to the engine, and is driven with it; :mod:`hpcserve.client.stream` is what a caller reads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from hpcserve.client import arguments
from hpcserve.client.call import Inference, Inputs
from hpcserve.client.outputs import Outputs
from hpcserve.core.caller import Caller
from hpcserve.core.streams import ITEM_BYTES, Incoming, Room
from hpcserve.core.tiers import INLINE
from hpcserve.errors import HpcserveError, InvalidInput, ProtocolError, StreamInterrupted
from hpcserve.types import Counter, ReplicaId
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decoder, encode, error_from_wire
from hpcserve.wire.tensor import Frame, unpack

WINDOW = 1024
WINDOW_BYTES = 16 << 20
MOST_ITEMS = 1 << 16

_decode_items = decoder(list[wire.Item])


class Came(NamedTuple):
    """An item that the reader has not taken."""

    tensors: msgspec.Raw
    frames: Sequence[Frame]
    size_bytes: int
    message: wire.Items

    def outputs(self) -> Outputs:
        """The item as its reader gets it."""
        message = self.message
        return Outputs(
            unpack(self.tensors, self.frames, writable=True),
            replica=message.replica,
            version=message.version,
            run_s=message.run_us / 1e6 / max(1, message.count),
            image=message.image,
        )


class Streaming(Inference):
    """The call of a stream. It is ``done`` whenever there is something to read: an item, or the end."""

    __slots__ = ("came", "end", "has_ended", "incoming", "room", "window")

    def __init__(
        self,
        target: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
        priority: int,
        window: int,
        on_done: Callable[[Any], None] | None = None,
    ) -> None:
        super().__init__(
            target,
            inputs,
            parameters=parameters,
            timeout_s=timeout_s,
            priority=priority,
            own=True,
            reply=INLINE,
            on_done=on_done,
        )
        self.room = Room(arguments.bound(window, "window", MOST_ITEMS), WINDOW_BYTES)
        self.window = wire.Window(*self.room)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Nothing has come."""
        self.incoming = Incoming(self.room, time.monotonic())
        self.came: deque[Came] = deque()
        self.end: wire.Result | None = None
        self.has_ended = False

    @property
    def is_over(self) -> bool:
        """Whether nothing comes any more; what has come may still be read."""
        return self.has_ended or self.error is not None

    def take_first(self) -> Came | None:
        """Takes what has come first. It may be gone between a look and that: another thread closes the stream."""
        try:
            return self.came.popleft()
        except IndexError:
            return None

    def interrupted(self) -> StreamInterrupted:
        """The error of a stream that cannot go on where it was."""
        return StreamInterrupted(
            f"endpoint {self.endpoint!r}: the replica was lost after {self.incoming.next} items of the stream; a "
            "second run might yield others: call it again to have them from the start"
        )

    def take(self, message: wire.Items, frames: Sequence[Frame]) -> bool:
        """Takes items in; False: they are of another run."""
        items: list[wire.Item] = _decode_items(message.items)
        follow = bool(frames)
        if len(items) != message.count or (follow and message.count != 1):
            raise ProtocolError(f"a message of {message.count} items of a stream has {len(items)} of them")
        held = [frames if follow else item.enclosed for item in items]
        sizes = [ITEM_BYTES + sum(map(len, each)) for each in held]
        known = self.incoming.take(message.first, sizes, ReplicaId(message.replica), time.monotonic())
        if known is None:
            return False
        for item, each, size_bytes in zip(items[known:], held[known:], sizes[known:], strict=True):
            self.came.append(Came(item.tensors, each, size_bytes, message))
        return True

    def has_all(self) -> bool:
        """Whether the end has come, and everything before it."""
        end = self.end
        return end is not None and (end.items is None or end.items <= self.incoming.next)

    def finish(self, result: wire.Result, frames: Sequence[Frame]) -> None:
        """Takes the end in."""
        if result.error is not None:
            self.error = error_from_wire(result.error)
        elif result.items is None:
            self.error = InvalidInput(f"endpoint {self.endpoint!r} returned one answer: call it by infer()")
        self.has_ended = True
        self.frames = self.enclosed = ()


class Streams:
    """The streams of one engine.

    Args:
        caller: What the client waits for.
        say: Sends a header to the broker, if there is a connection.
        finish: The call has something to read.
    """

    def __init__(self, caller: Caller, say: Callable[[bytes], None], finish: Callable[[Inference], None]) -> None:
        self._caller = caller
        self._say = say
        self._finish = finish
        self._calls: dict[Counter, Streaming] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def started(self, id: Counter, call: Streaming) -> None:
        """A stream was called."""
        self._calls[id] = call

    def more(self, id: Counter, call: Streaming) -> None:
        """The reader has taken so many items that the replica is to be told."""
        if self._caller.get(id) is call:
            self._more(id, call, again=False)

    def take(self, message: wire.Items, frames: Sequence[Frame]) -> None:
        """Items have come."""
        call = self._caller.get(message.id)
        if not isinstance(call, Streaming):
            return
        try:
            if not call.take(message, frames):
                self._fail(message.id, call, call.interrupted())
                return
        except HpcserveError as error:
            self._fail(message.id, call, error)
            return
        if call.end is not None and call.has_all():
            self._settle(message.id, call, call.end)
        elif call.came and not call.done:
            self._finish(call)
        if call.incoming.misses(time.monotonic()):
            self._more(message.id, call, again=True)
        elif not message.count and call.incoming.must_tell:
            self._more(message.id, call, again=False)

    def ended(self, result: wire.Result) -> bool:
        """A result has come. Returns whether it was the end of a stream."""
        call = self._caller.get(result.id)
        if not isinstance(call, Streaming):
            return False
        call.end = result
        if call.has_all():
            self._settle(result.id, call, result)
        else:
            call.incoming.lost(time.monotonic())
            self.look(time.monotonic())
        return True

    def cannot_repeat(self, id: Counter, call: Inference) -> bool:
        """Whether the broker wants a request again of which items have come; it ends then."""
        if not isinstance(call, Streaming):
            return False
        if call.incoming.next:
            self._fail(id, call, call.interrupted())
            return True
        call.begin_anew()
        return False

    def connected(self) -> None:
        """There is a new connection: what was on its way is lost."""
        now = time.monotonic()
        for call in self._calls.values():
            call.incoming.lost(now)
        self.look(now)

    def look(self, now: float) -> None:
        """Asks for what seems to be lost, and forgets what has ended."""
        for id, call in list(self._calls.items()):
            if self._caller.get(id) is not call:
                del self._calls[id]
            elif call.refusal is None and call.incoming.misses(now):
                self._more(id, call, again=True)

    def _more(self, id: Counter, call: Streaming, *, again: bool) -> None:
        self._say(encode(wire.More(id, call.incoming.tell(time.monotonic()), again)))

    def _settle(self, id: Counter, call: Streaming, end: wire.Result) -> None:
        self._caller.settle(id)
        call.finish(end, ())
        self._finish(call)

    def _fail(self, id: Counter, call: Streaming, error: HpcserveError) -> None:
        self._caller.settle(id)
        call.error = error
        self._finish(call)
