"""The engine that the threads of one client share, and the reading role that passes between them.

Whoever waits for an answer reads the socket, in its own thread: a call from one thread needs no hand-off
to another, which would cost more than the message itself. One thread at a time has the *reading role*;
others that wait are woken by it. A background thread, the keeper, has the role when nobody waits (see
:mod:`hpcserve.client.keeper`), and a caller that finds it reading asks it to step aside.

A Ctrl-C may come wherever Python calls something, also between a lock that is had and the ``try`` that would let go
of it. So those that a waiting caller takes know whose they are: it lets go of what is its own, in whatever way it
leaves. What does that stands in line, in one function, since a call of ours could be cut short before its first line.

The socket's descriptor is edge-triggered, and any use of the socket may swallow an edge. So whoever sends
while another thread reads looks for what has arrived before it lets go of the lock.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque

from hpcserve.client import forks
from hpcserve.client.arguments import FOREVER
from hpcserve.client.call import AdminCall, Inference, Pending
from hpcserve.client.dial import Connection
from hpcserve.client.engine import Engine
from hpcserve.client.streaming import Came, Streaming
from hpcserve.errors import InvalidInput
from hpcserve.types import Counter

STEP_ASIDE_S = 0.005  # a caller that asked the keeper for the role looks so often whether it is still needed
LOOK_S = 0.1  # deadlines of unattended calls are looked at so often


class SharedEngine:
    """An engine behind a lock, which whoever waits drives.

    Attributes:
        engine: What is shared; touched with the ``lock`` held.
        role: Held by the one thread that reads.
        asking: Held by the one caller that asks the keeper for the role.
        asker: The thread that has asked the keeper for the role; 0: none.
        keeper_reads: Whether it is the keeper that reads.
        keeper_rests: Whether it sleeps without an end, because nothing is waited for.
        reader: The thread that has the reading role; 0: none.
        wanted: Set when the keeper has something to look at.
        last_read: When a thread last gave the role back, in monotonic seconds.
        closed: Nothing may be started any more.
        wake_read: The descriptor by which the keeper is woken.
    """

    def __init__(self) -> None:
        self.engine = Engine()
        self.lock = threading.Lock()
        self.role = threading.RLock()
        self.asking = threading.RLock()
        self.asker = 0
        self.keeper_reads = False
        self.keeper_rests = False
        self.reader = 0
        self.wanted = threading.Event()
        self.last_read = 0.0
        self.closed = False
        self._looked = 0.0
        self.wake_read, self._wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._can_wake = True
        self._waking = threading.RLock()  # what the collector closes during a nudge may nudge, too
        self._forked = False
        self._descriptors = [self.wake_read, self._wake_write]
        self._unwanted: deque[Counter] = deque()

    # --- calls ----------------------------------------------------------------------------------------

    def start(self, call: Inference) -> Counter:
        """Sends a request."""
        with self.lock:
            self._check_open()
            id = self.engine.infer(call)
            self._look_for_reader()
            must_wake = call.on_done is not None and self.keeper_rests
            if must_wake:
                self.keeper_rests = False
        self.resolve()
        if must_wake:
            self.nudge()  # it must mind this call's deadline
        return id

    def open(self, call: Streaming) -> Counter:
        """Calls a stream."""
        with self.lock:
            self._check_open()
            id = self.engine.stream(call)
            self._look_for_reader()
            must_wake, self.keeper_rests = self.keeper_rests, False
        self.resolve()
        if must_wake:
            self.nudge()
        return id

    def read(self, id: Counter, call: Streaming, item: Came) -> None:
        """The reader of a stream has taken an item."""
        if call.incoming.read(item.size_bytes):
            with self.lock:
                if not self.closed:
                    self.engine.streams.more(id, call)
                    self._look_for_reader()
            self.resolve()

    def rearm(self, call: Streaming) -> None:
        """The reader of a stream has taken everything, and is about to wait for more."""
        with self.lock:
            if not call.came and not call.is_over:
                call.done, call.event = False, None

    def admin(self, call: AdminCall) -> None:
        """Sends an administrative call."""
        with self.lock:
            self._check_open()
            self.engine.admin(call)
            self._look_for_reader()

    def cancel(self, id: Counter) -> bool:
        """Takes a request back; False when it was answered before."""
        with self.lock:
            if self.closed:
                return False
            done = self.engine.cancel(id)
            self._look_for_reader()
        self.resolve()
        return done

    def abandon(self, id: Counter) -> None:
        """As :meth:`cancel`, for what the collector may call: anywhere, in a thread that has any lock, too.

        It calls nobody back: whoever reads, or has the lock, takes the request back in :meth:`resolve`. Nor does it
        wait: a nudge has its lock for as long as a write to a pipe that never blocks, and may be made within another.
        ``wanted`` stays as it is: an event's lock may be this very thread's, and cannot be had twice. The keeper sleeps
        on that event only while nothing is waited for, and so nothing can be taken back.
        """
        self._unwanted.append(id)
        self.nudge()

    def _cancel_unwanted(self) -> None:
        while self._unwanted and self.lock.acquire(blocking=False):
            try:
                with contextlib.suppress(IndexError):  # another thread was faster
                    id = self._unwanted.popleft()
                    if not self.closed:
                        self.engine.cancel(id)
                self._look_for_reader()
            finally:
                self.lock.release()

    def _check_open(self) -> None:
        if self.closed:
            raise forks.unusable() if self._forked else InvalidInput("this client is closed; make a new one")

    def resolve(self) -> None:
        """Wakes those whose calls are answered. Called without the lock: a callback may call us."""
        if self._unwanted:
            self._cancel_unwanted()
        while self.engine.finished:
            try:
                call = self.engine.finished.popleft()
            except IndexError:
                return  # another thread was faster
            event = call.event  # the reader of a stream takes a new one for each wait
            if event is not None:
                event.set()
            if call.on_done is not None:
                call.on_done(call)

    def close(self) -> bool:
        """Ends the session; whoever still waits is told. False when that was done before."""
        with self.lock:
            if self.closed:
                return False
            self.closed = True
            self.engine.bye()
        self.resolve()
        self.wanted.set()
        self.nudge()
        return True

    def release(self) -> None:
        """Gives back the connection and the descriptors, whose numbers are others' from now on."""
        with self.lock:
            self.closed = True  # as it is already, unless the first dial failed
            self.engine.lost()
        with self._waking:
            self._can_wake = False
            while self._descriptors:  # each once, if a Ctrl-C comes meanwhile and this is called again
                os.close(self._descriptors.pop())

    def forked(self) -> None:
        """In a forked child: closed from now on. See :mod:`hpcserve.client.forks`."""
        self.lock, self.role, self.asking = threading.Lock(), threading.RLock(), threading.RLock()
        self._waking = threading.RLock()
        if self.closed:
            return  # its descriptors may be others by now
        self._forked = self.closed = True
        self._can_wake = False
        self.wanted = threading.Event()
        self.reader, self.asker, self.keeper_reads = 0, 0, False
        self.engine.finished.clear()
        self._unwanted.clear()
        forks.keep(self.engine.connection)
        self.engine.connection = None
        while self._descriptors:
            os.close(self._descriptors.pop())

    # --- reading --------------------------------------------------------------------------------------

    def _look_for_reader(self) -> None:
        """After a send, with the lock: what the sleeping reader would not wake for. A new one looks first."""
        if self.reader:
            while self.engine.drain():
                pass
            if self.engine.connection is None:
                self.nudge()  # the reader sleeps over a connection that is no more

    def wait(self, call: Pending, timeout: float | None) -> None:
        """Returns when the call is answered, or ``timeout`` seconds are over."""
        until = min(call.deadline + LOOK_S, FOREVER if timeout is None else time.monotonic() + timeout)
        while not call.done and (left := until - time.monotonic()) > 0:
            if self.reader == threading.get_ident():
                self._read(call, until)  # a callback of a call that this thread has read waits for another one
            elif self.engine.connection is None or not self._read_in_turn(call, until):
                self._wait_for_reader(call, left)
        if not call.done and timeout is None:
            with self.lock:
                self.engine.expire()
                self._look_for_reader()
            self.resolve()

    def _read_in_turn(self, call: Pending, until: float) -> bool:
        """Reads as :meth:`_read`, if this thread may; whether it might."""
        me, was_ours = threading.get_ident(), True
        try:
            if not self._take_role(call):
                return False
            self.reader = me
            self._read(call, until)
            return True
        finally:
            try:
                if self.reader == me:
                    self.reader = 0
                    self.last_read = time.monotonic()
            finally:
                try:
                    self.role.release()
                except RuntimeError:
                    was_ours = False
            if was_ours and self.engine.connection is None:
                self.wanted.set()  # the keeper sleeps on this only while there is no connection

    def _wait_for_reader(self, call: Pending, left: float) -> None:
        """Another thread reads, or there is no connection: sleeps until that changes."""
        with self.lock:
            if call.done:
                return
            self._check_open()  # in a forked child nobody will read
            call.event = call.event or threading.Event()
        self.wanted.set()
        call.event.wait(min(left, LOOK_S))

    def _take_role(self, call: Pending) -> bool:
        """Whether this thread may read now; the keeper is asked to step aside, another caller is not."""
        if self.role.acquire(blocking=False):
            return True
        if not self.keeper_reads:
            return False
        me = threading.get_ident()
        try:
            if not self.asking.acquire(blocking=False):
                return False
            self.asker = me
            while self.keeper_reads and not call.done:
                self.nudge()
                if self.role.acquire(timeout=STEP_ASIDE_S):
                    return True
            return self.role.acquire(blocking=False)
        finally:
            if self.asker == me:
                self.asker = 0
            try:
                self.asking.release()
            except RuntimeError:
                me = 0  # another one asks

    def _read(self, call: Pending, until: float) -> None:
        """Reads until the call is answered, the time is over or the connection lost. Has the role."""
        known = self.engine.connection
        has_told = False
        while not call.done and known is not None:
            with self.lock:
                more = self.engine.drain(call, woken=has_told)
            self.resolve()
            if call.done or self.engine.connection is not known:
                return
            if more:
                continue
            left = until - time.monotonic()
            if left <= 0:
                return
            has_told = False
            for descriptor, _ in known.poller.poll(self.look_in_s(left) * 1000):
                if descriptor == known.socket_fd:
                    has_told = True
                elif descriptor == self.wake_read:
                    self.hear_nudges()
                else:
                    self.woken(known, descriptor)
            self.look_at_deadlines()

    def woken(self, connection: Connection, descriptor: int) -> None:
        """A descriptor of the connection's poller has something: if it is the monitor, the connection may be lost."""
        if descriptor == connection.monitor_fd:
            with self.lock:
                if connection is self.engine.connection and connection.is_down():
                    self.engine.drain()
                    self.engine.lost()

    def look_in_s(self, longest_s: float = LOOK_S) -> float:
        """How long a reader may sleep: until it has to look at deadlines, or to send what was refused again."""
        due_at = self.engine.caller.due_at
        if due_at == FOREVER:
            return min(longest_s, LOOK_S)
        return max(0.0, min(longest_s, LOOK_S, due_at - time.monotonic()))

    def look_at_deadlines(self) -> None:
        """Ends the calls whose deadline is over, if nobody has looked for a while, and sends again what is due.

        And acknowledges: the results that are waited for may have no room before that is said. And leaves a daemon that
        is silent for its successor.
        """
        now = time.monotonic()
        if now >= self.engine.caller.due_at:
            with self.lock:
                self.engine.send_due()
        if now - self._looked >= LOOK_S:
            self._looked = now
            with self.lock:
                self.engine.expire()
                self.engine.acknowledge()
                self.engine.leave_if_succeeded()
            self.resolve()

    def nudge(self) -> None:
        """Wakes the keeper out of its poll, if the client is not closed by now."""
        with self._waking, contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake anyway
            if self._can_wake:
                os.write(self._wake_write, b"w")

    def hear_nudges(self) -> None:
        """Takes the nudges in, so that they wake nobody again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_read, 4096)
