"""The streams of a replica: generators that take turns with each other, and with all else, in its one loop.

A stream runs for a slice of time, and then waits for its next turn; or, once its reader has as many items as it is
ready to hold, until that takes some. What was sent is kept until the reader has taken it, and after that until the
end was acknowledged; :mod:`hpcserve.core.streams` decides how much, and what is sent again.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from hpcserve.core.streams import ITEM_BYTES, Outgoing, Pace, Room
from hpcserve.errors import DeadlineExceeded, HpcserveError, InvalidOutput
from hpcserve.replica.executor import Executor, Items
from hpcserve.replica.link import Link
from hpcserve.replica.outcome import Outcome, failed
from hpcserve.replica.task import Task
from hpcserve.types import RequestKey
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import encode, raw
from hpcserve.wire.messages import EMPTY_LIST

SLICE_S = 0.001
MESSAGE_BYTES = 16 << 10  # items that travel together have so many, or one more
MOST_OPENED = 1000  # beyond so many, an open stream counts as work


class Host(Protocol):
    """The loop, as the streams need it."""

    def begin(self, tasks: Sequence[Task]) -> float:
        """Something is run from now on."""

    def ran(self, began: float) -> float:
        """How long something ran that is over now."""

    def is_wanted(self, task: Task) -> bool:
        """Whether somebody still waits for a request."""

    def finish(self, task: Task, outcome: Outcome | None, run_us: int, items: int | None) -> None:
        """A request has ended; without an outcome nobody waits for it."""

    def tell_credit(self) -> None:
        """More, or less, is wanted than before."""


class Open:
    """A stream that has not ended."""

    def __init__(self, task: Task, items: Items, out: Outgoing[Outcome]) -> None:
        self.task = task
        self.items = items
        self.out = out
        self.pace = Pace()
        self.run_s = 0.0
        self.largest_bytes = 0
        self.input_bytes = sum(map(len, task.tensors))
        self.is_open = True
        self.is_ready = True


class Streams:
    """All streams of one replica.

    Args:
        host: Whose they are.
        executor: What runs them.
        link: By which the items leave.
        replica: The replica's id.
        version: Its servable's.
        image: The sha256 of its container image, or empty.
        budget_bytes: They keep so many bytes together, or one item each and twice as many; the last may exceed it.
    """

    def __init__(
        self,
        host: Host,
        executor: Executor,
        link: Link,
        *,
        replica: str,
        version: str,
        budget_bytes: int,
        image: str = "",
    ) -> None:
        self.ready: deque[Open] = deque()
        self.look_at = math.inf
        self.opened = 0
        """How many have not ended, but for those beyond ``MOST_OPENED``."""
        self.input_bytes = 0
        self.kept: dict[RequestKey, Outgoing[Outcome]] = {}
        self._open: dict[RequestKey, Open] = {}
        self._kept_bytes = 0
        self._host = host
        self._executor = executor
        self._link = link
        self._names = replica, version
        self._image = image
        self._budget_bytes = budget_bytes

    def tasks(self) -> list[Task]:
        """The requests that have not ended."""
        return [stream.task for stream in self._open.values()]

    def yielded(self, keys: Sequence[RequestKey]) -> tuple[int, ...]:
        """For each of these requests: how many items there are by now."""
        kept = self.kept
        return tuple(kept[key].next if key in kept else 0 for key in keys) if kept else ()

    # --- what the loop does -----------------------------------------------------------------------------

    def open(self, task: Task, window: wire.Window) -> None:
        """Begins a stream."""
        work, began = task.work, self._host.begin((task,))
        items = self._executor.stream(task.method, work.tensors, task.tensors, work.parameters)
        run_s = self._host.ran(began)
        if isinstance(items, Outcome):
            self._host.finish(task, items, int(run_s * 1e6), 0)
            return
        out = self.kept[task.key] = Outgoing[Outcome](Room(window.items, window.size_bytes))
        stream = self._open[task.key] = Open(task, items, out)
        self.opened = min(MOST_OPENED, len(self._open))
        self.input_bytes += stream.input_bytes
        self.look_at = min(self.look_at, task.deadline)
        self.ready.append(stream)
        self._host.tell_credit()

    def go_on(self) -> None:
        """Runs the stream whose turn it is for a while."""
        stream = self.ready.popleft()
        if not stream.is_open or self._is_over(stream):
            return
        if self._may_go_on(stream):
            began = self._host.begin((stream.task,))
            end = self._run(stream, began)
            stream.run_s += self._host.ran(began)
            if end is not None:
                self._end(stream, end)
                return
        if self._may_go_on(stream):
            self.ready.append(stream)
            return
        stream.is_ready = False
        if stream.out.has_room and not stream.out.is_empty:
            self._say(stream.task.key, stream.out.next, [], 0)  # there is none here: its reader is to hurry

    def look(self) -> None:
        """Ends the streams whose deadline is over, and those that nobody wants, if that may be."""
        if time.monotonic() < self.look_at:
            return
        self.look_at = math.inf
        for stream in list(self._open.values()):
            if not self._is_over(stream):
                self.look_at = min(self.look_at, stream.task.deadline)

    def more(self, key: RequestKey, received: int, *, again: bool) -> None:
        """The reader has taken all items below ``received``; ``again``: those above may have been lost."""
        out = self.kept.get(key)
        if out is None:
            return
        stream = self._open.get(key)
        if stream is not None:
            self._open[key] = self._open.pop(key)  # others have waited for room longer
        self._free(out.more(received))
        if again:
            self._send(key, out.received, out.kept(), 0)
        if stream is not None:
            self._wake(stream)

    def release(self, keys: Sequence[RequestKey]) -> None:
        """Nobody waits for these requests. A stream among them ends at the next look."""
        for key in keys:
            if key in self._open:
                self.look_at = 0.0
            else:
                self._forget(key)

    def has_begun(self, key: RequestKey) -> bool:
        """Whether a stream has had items."""
        return key in self.kept and self.kept[key].next > 0

    def close(self) -> None:
        """Ends all generators; the replica stops."""
        for stream in list(self._open.values()):
            self._close(stream)

    # --- one stream ---------------------------------------------------------------------------------------

    def _run(self, stream: Open, began: float) -> Outcome | None:
        """Has a stream yield for a slice of time. Returns its end, if it comes to it."""
        executor, out, sent_at, last = self._executor, stream.out, began, began
        unsent: list[Outcome] = []
        unsent_bytes, end = 0, None
        while True:
            outcome = executor.item(stream.task.method, stream.items)
            now = time.monotonic()
            if outcome is None or outcome.error is not None:
                end = outcome or Outcome(EMPTY_LIST, ())
                break
            size_bytes = ITEM_BYTES + sum(map(len, outcome.frames))
            if size_bytes > 2 * self._budget_bytes:
                end = failed(_too_large(stream.task.method, size_bytes, 2 * self._budget_bytes))
                break
            out.add(outcome, size_bytes)
            stream.largest_bytes = max(stream.largest_bytes, size_bytes)
            self._kept_bytes += size_bytes
            unsent.append(outcome)
            unsent_bytes += size_bytes
            waits = stream.pace.made(now - last)
            last = now
            if not waits or unsent_bytes >= MESSAGE_BYTES:
                self._send(stream.task.key, out.next - len(unsent), unsent, int((now - sent_at) * 1e6))
                unsent, unsent_bytes, sent_at = [], 0, now
            if now - began >= SLICE_S or not self._may_go_on(stream):
                break
        self._send(stream.task.key, out.next - len(unsent), unsent, int((last - sent_at) * 1e6))
        return end

    def _send(self, key: RequestKey, first: int, outcomes: Sequence[Outcome], run_us: int) -> None:
        """Sends items, the small ones together."""
        together: list[wire.Item] = []
        size_bytes = 0
        for outcome in outcomes:
            item = wire.Item(outcome.tensors, outcome.enclosed)
            follow = bool(outcome.frames) and not outcome.enclosed
            if together and (follow or size_bytes >= MESSAGE_BYTES):
                self._say(key, first, together, run_us)
                first, together, size_bytes = first + len(together), [], 0
            if follow:
                self._say(key, first, [item], run_us, outcome)
                first += 1
            else:
                together.append(item)
                size_bytes += ITEM_BYTES + sum(map(len, item.enclosed))
        if together:
            self._say(key, first, together, run_us)

    def _say(
        self, key: RequestKey, first: int, items: list[wire.Item], run_us: int, large: Outcome | None = None
    ) -> None:
        header = wire.Items(*key, first, len(items), raw(items), *self._names, run_us, self._image)
        self._link.send(encode(header), () if large is None else large.frames)

    def _is_over(self, stream: Open) -> bool:
        """Whether a stream has no time left, or no reader; it is ended then."""
        if not self._host.is_wanted(stream.task):
            self._end(stream, None)
        elif stream.task.deadline <= time.monotonic():
            told = f"the deadline passed after {stream.out.next} items of the stream"
            self._end(stream, failed(DeadlineExceeded(told)))
        else:
            return False
        return True

    def _end(self, stream: Open, outcome: Outcome | None) -> None:
        self._close(stream)
        key = stream.task.key
        if outcome is None or stream.out.is_empty:
            self._forget(key)
        self._host.finish(stream.task, outcome, int(stream.run_s * 1e6), stream.out.next)

    def _close(self, stream: Open) -> None:
        """Ends the generator; what it has in ``finally`` runs: until its deadline, if that is not over."""
        stream.is_open = False
        del self._open[stream.task.key]
        self.opened = min(MOST_OPENED, len(self._open))
        self.input_bytes -= stream.input_bytes
        began = self._host.begin((stream.task,))
        try:
            stream.items.close()
        except HpcserveError as error:
            sys.stderr.write(f"{error}\n")
        self._host.ran(began)

    # --- room -----------------------------------------------------------------------------------------------

    def _may_go_on(self, stream: Open) -> bool:
        """Whether there is room for another item: with its reader, and here."""
        if not stream.out.has_room:
            return False
        kept_bytes, most = self._kept_bytes, self._budget_bytes
        # How large the next item will be nobody knows: it is supposed to be no larger than those before.
        return kept_bytes < most or (stream.out.is_empty and kept_bytes < 2 * most - min(most, stream.largest_bytes))

    def _wake(self, stream: Open) -> None:
        if not stream.is_ready and self._may_go_on(stream):
            stream.is_ready = True
            self.ready.append(stream)

    def _forget(self, key: RequestKey) -> None:
        out = self.kept.pop(key, None)
        if out is not None:
            self._free(out.more(out.next))

    def _free(self, size_bytes: int) -> None:
        """So many bytes are kept no longer: others may have waited for that."""
        was_full = self._kept_bytes >= self._budget_bytes
        self._kept_bytes -= size_bytes
        if was_full:
            for stream in self._open.values():
                self._wake(stream)


def _too_large(method: str, size_bytes: int, largest_bytes: int) -> InvalidOutput:
    return InvalidOutput(
        f"method {method!r} yielded an item of {size_bytes} bytes: at most {largest_bytes} travel in one; yield less "
        "at a time, or raise budgets.outbox_bytes in the site file"
    )
