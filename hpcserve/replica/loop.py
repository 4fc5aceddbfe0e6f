"""The replica's one loop: drain the socket, run the oldest request, send its result (design §3).

There is no second Python thread: libzmq keeps the connection alive during a long call. What is kept, and
what is dropped, :mod:`hpcserve.core.holdings` decides.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from hpcserve.core.credit import INBOX_BYTES, Credit
from hpcserve.core.holdings import Holdings
from hpcserve.core.ledger import NEVER
from hpcserve.errors import Cancelled, DeadlineExceeded, InvalidOutput, ProtocolError
from hpcserve.replica.alarm import IDLE_MS, Alarm
from hpcserve.replica.executor import Executor, Outcome, failed
from hpcserve.replica.link import Link, Tensor
from hpcserve.replica.start import Lifeline
from hpcserve.types import RequestKey
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import MAX_OWN_HEADER_BYTES, decode_to_replica, encode
from hpcserve.wire.messages import WIRE_VERSIONS

LOOK_EVERY_S = 0.002  # while there is work, the socket is looked at so often
DRAIN = 256
RESULT_BYTES = 512


class Task(msgspec.Struct, gc=False):
    """A request in the inbox. ``deadline`` in monotonic seconds of this machine."""

    key: RequestKey
    work: wire.Work
    tensors: Sequence[Tensor]
    deadline: float


class Replica:
    """One running copy of a deployment, of one rank."""

    def __init__(
        self,
        link: Link,
        executor: Executor,
        lifeline: Lifeline,
        alarm: Alarm,
        *,
        replica: str,
        version: str,
        outbox_bytes: int,
    ) -> None:
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe()
        self._poller = select.poll()
        self._polled: object = self
        self._socket_fd = self._monitor_fd = -1
        self._link = link
        self._executor = executor
        self._lifeline = lifeline
        self._alarm = alarm
        self._replica = replica
        self._version = version
        self._holdings = Holdings(outbox_bytes)
        self._largest_bytes = max(outbox_bytes, MAX_OWN_HEADER_BYTES)
        self._credit = Credit()
        self._told_full = False
        self._most = 1
        self._inbox: deque[Task] = deque()

    def stop(self) -> None:
        """Ends :meth:`run` after the request that runs now. May be called from a signal handler."""
        self._stopping = True
        os.write(self._wake_write, b"s")

    def run(self) -> None:
        """Serves until the agent is gone or asks to stop; what runs then is finished first."""
        look_at = 0.0
        while not self._stopping:
            ready = bool(self._inbox) and not self._holdings.is_full
            now = time.monotonic()
            if not ready or now >= look_at:
                if not self._look(wait=not ready):
                    return
                look_at = time.monotonic() + LOOK_EVERY_S
            if self._inbox and not self._holdings.is_full:
                self._run(self._inbox.popleft())

    # --- the socket -----------------------------------------------------------------------------------

    def _look(self, *, wait: bool) -> bool:
        """Takes what has arrived, waiting for it if there is nothing to do. False: the agent is gone."""
        link = self._link
        link.connect()
        new = self._polled is not link.socket
        if new:
            self._watch_link()
        # A descriptor tells nothing before its socket was first asked, and not of what our own sends have taken in.
        has_message = link.has_message()
        ready = dict(self._poller.poll(0) if new or has_message or not wait else self._wait())
        if self._lifeline.fd in ready and self._lifeline.is_cut():
            return False
        if has_message or self._socket_fd in ready:
            self._drain(more=has_message)
        if (new or self._monitor_fd in ready) and link.watch():
            self._send_inventory()
        return True

    def _wait(self) -> list[tuple[int, int]]:
        """Sleeps until there is something to do; the alarm is not taken off for every short pause."""
        timeout_ms = self._link.timeout_ms()
        if self._alarm.set_for != NEVER:
            timeout_ms = IDLE_MS if timeout_ms is None else min(timeout_ms, IDLE_MS)
        ready = self._poller.poll(timeout_ms)
        if not ready:
            self._alarm.rest()
        return ready

    def _watch_link(self) -> None:
        """The link has another socket, or none: what is watched is made anew."""
        link = self._link
        self._polled = link.socket
        self._socket_fd = -1 if link.socket is None else int(link.socket.FD)
        self._monitor_fd = -1 if link.monitor is None else int(link.monitor.FD)
        self._poller = select.poll()
        for descriptor in (self._lifeline.fd, self._wake_read, self._socket_fd, self._monitor_fd):
            if descriptor >= 0:
                self._poller.register(descriptor, select.POLLIN)

    def _drain(self, *, more: bool) -> None:
        """Takes one message, and twice as many each time while there are more: reading an empty socket is dear."""
        self._most = min(2 * self._most, DRAIN) if more else 1
        for taken in range(self._most):
            message = self._link.receive()
            if message is None:
                self._most = max(1, taken)
                return
            self._take(*message)
            if self._link.socket is None:
                return

    def _take(self, header: bytes, tensors: list[Tensor]) -> None:
        try:
            message = decode_to_replica(header)
        except ProtocolError as error:
            sys.stderr.write(f"the daemon sent what cannot be read: {error}\n")
            self._link.close()
            return
        if type(message) is wire.Work:
            self._take_work(message, tensors)
        elif type(message) is wire.Release:
            self._release(message.keys)
        elif type(message) is wire.Fetch:
            self._fetch(message.keys)
        elif type(message) is wire.Census:
            self._holdings.census(message.epoch, message.fence)
            self._send_inventory()
        elif type(message) is wire.WhoAreYou:
            self._send_inventory()
        elif type(message) is wire.Refused:
            sys.stderr.write(f"the daemon refused this replica: {message.error.message}\n")
            self._link.close()

    def _take_work(self, work: wire.Work, tensors: list[Tensor]) -> None:
        if work.releases:
            self._release(work.releases)
        key = (work.session, work.id)
        if self._holdings.take(work.epoch, work.seq, key):
            left = work.remaining_ms
            deadline = NEVER if left is None else time.monotonic() + left / 1000
            self._inbox.append(Task(key, work, work.enclosed or tensors, deadline))

    def _release(self, keys: Sequence[RequestKey]) -> None:
        for key in keys:
            self._holdings.release(key)
        if self._told_full and not self._holdings.is_full:
            self._told_full = False
            self._link.send(encode(wire.Credit(*self._offer())))

    def _fetch(self, keys: Sequence[RequestKey]) -> None:
        all_held = True
        for key in keys:
            all_held &= self._holdings.want(key)
            result = self._holdings.result(key)
            if isinstance(result, Outcome):
                self._send_result(key, result, 0)
        if not all_held:
            self._send_inventory()

    # --- the work -------------------------------------------------------------------------------------

    def _run(self, task: Task) -> None:
        if not self._holdings.is_wanted(task.key):
            # The broker alone reads this: it settles what it told us to release.
            self._holdings.drop(task.key)
            self._alarm.rest()
            self._send_result(task.key, failed(Cancelled("the request was taken back before it ran")), 0)
            return
        began = time.monotonic()
        if task.deadline <= began:
            self._alarm.rest()  # a stream of what is not run must not let the last one's alarm go off
            outcome = failed(DeadlineExceeded("the deadline passed while the request waited at its replica"))
        else:
            work = task.work
            self._alarm.watch(task.deadline)
            outcome = self._executor.run(work.method, work.tensors, task.tensors, work.parameters)
        run_s = time.monotonic() - began
        if run_s >= LOOK_EVERY_S:
            self._most = DRAIN  # meanwhile some of what waits may have been taken back: that is read first
        self._credit.ran(run_s)
        size_bytes = _size_bytes(outcome)
        if size_bytes > self._largest_bytes:
            outcome = failed(_too_large(task.work.method, size_bytes, self._largest_bytes))
            size_bytes = _size_bytes(outcome)
        self._holdings.finish(task.key, outcome, size_bytes)
        self._send_result(task.key, outcome, int(run_s * 1e6))

    def _offer(self) -> tuple[int, int]:
        """The credit: unfinished requests and bytes that this replica wants to hold in all."""
        if self._holdings.is_full:
            self._told_full = True
            return 0, 0
        return self._credit.requests(), INBOX_BYTES

    def _send_result(self, key: RequestKey, outcome: Outcome, run_us: int) -> None:
        requests, size_bytes = self._offer()
        header = wire.Result(
            key[0],
            key[1],
            outcome.tensors,
            outcome.error,
            self._replica,
            self._version,
            run_us,
            requests,
            size_bytes,
            outcome.enclosed,
        )
        self._link.send(encode(header), () if outcome.enclosed else outcome.frames)

    def _send_inventory(self) -> None:
        holdings = self._holdings
        requests, size_bytes = self._offer()
        self._link.send(
            encode(
                wire.Inventory(
                    WIRE_VERSIONS[0],
                    holdings.epoch,
                    holdings.fence,
                    holdings.unfinished,
                    holdings.finished,
                    requests,
                    size_bytes,
                    self._remaining_ms(),
                )
            )
        )

    def _remaining_ms(self) -> tuple[int | None, ...]:
        """For each unfinished request, which are those of the inbox, as nothing runs while an INVENTORY is sent."""
        now = time.monotonic()
        return tuple(None if each.deadline == NEVER else int((each.deadline - now) * 1000) for each in self._inbox)


def _size_bytes(outcome: Outcome) -> int:
    """What keeping a result costs, roughly: an empty one and an error are not free."""
    told = outcome.error
    words = 0 if told is None else len(told.message) + len(told.traceback or "")
    return RESULT_BYTES + words + sum(map(_length, outcome.frames))


def _too_large(method: str, size_bytes: int, largest_bytes: int) -> InvalidOutput:
    return InvalidOutput(
        f"method {method!r} returned {size_bytes} bytes: at most {largest_bytes} travel in one result; return less, or "
        "raise budgets.outbox_bytes in the site file"
    )


def _length(frame: Tensor) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)
