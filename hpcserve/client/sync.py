"""The thread-safe client.

Whoever waits for an answer reads the socket, in its own thread: a call from one thread needs no hand-off
to another, which would cost more than the message itself. One thread at a time has the *reading role*;
others that wait are woken by it. A background thread, the keeper, has the role when nobody waits: it
completes futures, acknowledges, watches the connection and dials anew when it is lost. While callers come
and go quickly the keeper stays away (``AWAY_*``), and a caller that finds it reading asks it to step aside.

The socket's descriptor is edge-triggered, and any use of the socket may swallow an edge. So whoever sends
while another thread reads looks for what has arrived before it lets go of the lock.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Self, TypeVar

import zmq

from hpcserve.client.call import FOREVER, AdminCall, Inference, Inputs, Pending
from hpcserve.client.dial import Connection, dial
from hpcserve.client.engine import Engine
from hpcserve.client.keys import client_keys
from hpcserve.client.outputs import Outputs
from hpcserve.client.services import Service, find_service
from hpcserve.errors import HpcserveError, InvalidInput, ProtocolError, ServiceUnavailable
from hpcserve.types import Counter
from hpcserve.wire.admin import Admin
from hpcserve.wire.frames import raw

AWAY_WAITED_S = 0.005  # the keeper takes over so long after the last reader left calls unanswered
AWAY_IDLE_S = 0.02  # and so long after the last reader left none
STEP_ASIDE_S = 0.005  # a caller that asked the keeper for the role looks so often whether it is still needed
LOOK_S = 0.1  # deadlines of unattended calls are looked at so often
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0

T = TypeVar("T")


class InferenceFuture(Future[Outputs]):
    """A future whose waiter reads the socket itself. ``cancel()`` takes the request back, running or not."""

    def __init__(self) -> None:
        super().__init__()
        self._read: Callable[[float | None], None] | None = None
        self._take_back: Callable[[], bool] | None = None

    def arm(self, read: Callable[[float | None], None], take_back: Callable[[], bool]) -> None:
        """The request is on its way: how to wait for it, and how to take it back."""
        self._read, self._take_back = read, take_back

    def result(self, timeout: float | None = None) -> Outputs:
        """See :meth:`concurrent.futures.Future.result`."""
        if self._read is not None and not self.done():
            began = time.monotonic()
            self._read(timeout)
            if timeout is not None:
                timeout = max(0.0, timeout - (time.monotonic() - began))
        return super().result(timeout)

    def cancel(self) -> bool:
        """Takes the request back, even while it runs; False when it was answered before."""
        if not super().cancel():
            return False
        if self._take_back is not None:
            self._take_back()
        return True


class Client:
    """Calls endpoints of one service. Safe to use from any number of threads.

    Args:
        service: A name from ``hpcserve service list``, or a Service; default: ``HPCSERVE_SERVICE``, the one in
            use, or the daemon of the default site on this machine.
        timeout_s: The deadline of a call that names none, in seconds; None: without end.

    Raises:
        NotFound: No service has this name.
        ServiceUnavailable: No daemon answers.
        AuthenticationError: The daemon is not the one that was pinned, or does not know our key.
    """

    def __init__(self, service: str | Service | None = None, *, timeout_s: float | None = 60.0) -> None:
        self.timeout_s = timeout_s
        self._service = find_service(service)
        self._keys = client_keys()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._engine = Engine()
        self._lock = threading.Lock()
        self._role = threading.Lock()
        self._asking = threading.Lock()
        self._keeper_reads = False
        self._reader = 0  # the thread that has the reading role
        self._wanted = threading.Event()
        self._last_read = 0.0
        self._looked = 0.0
        self._closed = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        try:
            self._dial()
        except BaseException:
            self._release()
            raise
        self._keeper = threading.Thread(target=self._keep, name="hpcserve-client", daemon=True)
        self._keeper.start()
        # Without this an interpreter that ends with an open client would wait for its sockets.
        self._at_exit = _close_at_exit(self)

    # --- the public calls -----------------------------------------------------------------------------

    def infer(
        self,
        endpoint: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Outputs:
        """Calls ``endpoint`` (``NAME`` or ``NAME.METHOD``) and waits for the answer.

        Args:
            endpoint: The endpoint's name, with ``.METHOD`` where the servable has several.
            inputs: Arrays by name, or one array for a method with one input. Large arrays are not copied:
                leave them alone until this returns.
            parameters: JSON-like values for the method.
            timeout_s: The deadline in seconds; default: the client's.
            priority: Higher goes first.

        Returns:
            The outputs by name.

        Raises:
            HpcserveError: See :mod:`hpcserve.errors`; an error of the servable has its ``remote_traceback``.
        """
        call = self._inference(endpoint, inputs, parameters, timeout_s, priority, own=False)
        id = self._start(call)
        try:
            self._wait(call, None)
        except BaseException:  # Ctrl-C: nobody waits any more, and the arrays are the caller's again
            self._cancel(id)
            raise
        outcome: Outputs = call.outcome()
        return outcome

    def submit(
        self,
        endpoint: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Future[Outputs]:
        """As :meth:`infer`, but returns at once. The inputs are copied."""
        future = InferenceFuture()

        def resolve(call: Inference) -> None:
            # False: somebody cancelled the future, and nobody wants the answer.
            if not future.set_running_or_notify_cancel():
                return
            if call.error is None:
                future.set_result(call.value)
            else:
                future.set_exception(call.error)

        call = self._inference(endpoint, inputs, parameters, timeout_s, priority, own=True, on_done=resolve)
        id = self._start(call)
        future.arm(partial(self._wait, call), partial(self._cancel, id))
        self._wanted.set()
        return future

    def map(
        self,
        endpoint: str,
        items: Iterable[Inputs],
        *,
        in_flight: int = 64,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
    ) -> Generator[Outputs, None, None]:
        """Calls ``endpoint`` for each item and yields the outputs in the items' order.

        At most ``in_flight`` requests are out at any time; ``items`` is read no further ahead than that, so
        it may be endless. An error is raised in its item's turn, and what is still out is taken back, as it is
        when the generator is closed.
        """
        if in_flight < 1:
            raise InvalidInput(f"in_flight is {in_flight}; it must be at least 1")
        calls: deque[tuple[Counter, Inference]] = deque()
        try:
            for item in items:
                call = self._inference(endpoint, item, parameters, timeout_s, priority, own=True)
                calls.append((self._start(call), call))
                if len(calls) >= in_flight:
                    yield self._next_of(calls)
            while calls:
                yield self._next_of(calls)
        finally:
            for id, _ in calls:
                self._cancel(id)

    def call(self, verb: str, arguments: Admin, answer: type[T], *, timeout_s: float | None = 30.0) -> T:
        """An administrative call, such as the command line makes.

        Args:
            verb: The call's name.
            arguments: The verb's struct of :mod:`hpcserve.wire.admin`.
            answer: The struct of its answer.
            timeout_s: How long to wait, in seconds; None: without end.
        """
        call = AdminCall(verb, raw(arguments), answer, timeout_s)
        with self._lock:
            self._check_open()
            self._engine.admin(call)
            self._look_for_reader()
        self._wait(call, None)
        outcome: T = call.outcome()
        return outcome

    def close(self) -> None:
        """Ends the session; calls without an answer fail with Cancelled. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._engine.bye()
        self._resolve()
        self._wanted.set()
        self._nudge()
        if threading.current_thread() is not self._keeper:
            self._keeper.join()
        atexit.unregister(self._at_exit)
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- calls ----------------------------------------------------------------------------------------

    def _inference(
        self,
        endpoint: str,
        inputs: Inputs,
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
        priority: int,
        *,
        own: bool,
        on_done: Callable[[Any], None] | None = None,
    ) -> Inference:
        deadline_s = self.timeout_s if timeout_s is None else timeout_s
        return Inference(
            endpoint, inputs, parameters=parameters, timeout_s=deadline_s, priority=priority, own=own, on_done=on_done
        )

    def _start(self, call: Inference) -> Counter:
        with self._lock:
            self._check_open()
            id = self._engine.infer(call)
            self._look_for_reader()
        self._resolve()
        if call.on_done is not None and self._keeper_reads and self._engine.waiting == 1:
            self._nudge()  # it sleeps without an end, and must mind this call's deadline
        return id

    def _next_of(self, calls: deque[tuple[Counter, Inference]]) -> Outputs:
        call = calls[0][1]
        if not call.done:
            self._wait(call, None)
        calls.popleft()
        outcome: Outputs = call.outcome()
        return outcome

    def _cancel(self, id: Counter) -> bool:
        with self._lock:
            done = self._engine.cancel(id) if not self._closed else False
            self._look_for_reader()
        self._resolve()
        return done

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInput("this client is closed; make a new one")

    def _resolve(self) -> None:
        """Wakes those whose calls are answered. Called without the lock: a callback may call us."""
        while self._engine.finished:
            try:
                call = self._engine.finished.popleft()
            except IndexError:
                return  # another thread was faster
            if call.event is not None:
                call.event.set()
            if call.on_done is not None:
                call.on_done(call)

    # --- reading --------------------------------------------------------------------------------------

    def _look_for_reader(self) -> None:
        """After a send, with the lock: what the sleeping reader would not wake for. A new one looks first."""
        if self._role.locked():
            while self._engine.drain():
                pass
            if self._engine.connection is None:
                self._nudge()  # the reader sleeps over a connection that is no more

    def _wait(self, call: Pending, timeout: float | None) -> None:
        """Returns when the call is answered, or ``timeout`` seconds are over."""
        until = min(call.deadline + LOOK_S, FOREVER if timeout is None else time.monotonic() + timeout)
        while not call.done and (left := until - time.monotonic()) > 0:
            if self._reader == threading.get_ident():
                self._read(call, until)  # a callback of a call that this thread has read waits for another one
            elif self._engine.connection is not None and self._take_role(call):
                self._reader = threading.get_ident()
                try:
                    self._read(call, until)
                finally:
                    self._reader = 0
                    self._last_read = time.monotonic()
                    self._role.release()
                    if self._engine.connection is None:
                        self._wanted.set()  # the keeper sleeps on this only while there is no connection
            else:
                self._wait_for_reader(call, left)
        if not call.done and timeout is None:
            with self._lock:
                self._engine.expire()
                self._look_for_reader()
            self._resolve()

    def _wait_for_reader(self, call: Pending, left: float) -> None:
        """Another thread reads, or there is no connection: sleeps until that changes."""
        with self._lock:
            if call.done:
                return
            call.event = call.event or threading.Event()
        self._wanted.set()
        call.event.wait(min(left, LOOK_S))

    def _take_role(self, call: Pending) -> bool:
        """Whether this thread may read now; the keeper is asked to step aside, another caller is not."""
        if self._role.acquire(blocking=False):
            return True
        if not self._keeper_reads or not self._asking.acquire(blocking=False):
            return False
        try:
            while self._keeper_reads and not call.done:
                self._nudge()
                if self._role.acquire(timeout=STEP_ASIDE_S):
                    return True
            return self._role.acquire(blocking=False)
        finally:
            self._asking.release()

    def _read(self, call: Pending, until: float) -> None:
        """Reads until the call is answered, the time is over or the connection lost. Has the role."""
        known = self._engine.connection
        while not call.done and known is not None:
            with self._lock:
                more = self._engine.drain(call)
            self._resolve()
            if call.done or self._engine.connection is not known:
                return
            if more:
                continue
            left = until - time.monotonic()
            if left <= 0:
                return
            for descriptor, _ in known.poller.poll(min(left, LOOK_S) * 1000):
                if descriptor == self._wake_read:
                    self._hear_nudges()
                self._woken(known, descriptor)
            self._look_at_deadlines()

    def _woken(self, connection: Connection, descriptor: int) -> None:
        if descriptor == connection.monitor_fd:
            with self._lock:
                if connection is self._engine.connection and connection.is_down():
                    self._engine.drain()
                    self._engine.lost()

    def _look_at_deadlines(self) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            with self._lock:
                self._engine.expire()
            self._resolve()

    # --- the keeper -----------------------------------------------------------------------------------

    def _nudge(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake anyway
            os.write(self._wake_write, b"w")

    def _hear_nudges(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)

    def _keep(self) -> None:
        while not self._closed:
            try:
                self._keep_going()
            except Exception as error:  # noqa: BLE001 (without its keeper a client would wait in silence for ever)
                with self._lock:
                    self._engine.fail_all(ServiceUnavailable(f"the connection failed: {error!r}"))
                    self._engine.lost()
                self._resolve()
                time.sleep(FIRST_PAUSE_S)

    def _keep_going(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closed:
            if self._engine.connection is None:
                pause_s = self._redial(pause_s)
                continue
            pause_s = FIRST_PAUSE_S
            away_s = (AWAY_WAITED_S if self._engine.waiting else AWAY_IDLE_S) - (time.monotonic() - self._last_read)
            # Never in line for the role: it would be handed over at each pause of a caller that reads in a loop.
            # Nor before a caller that has asked for it and was not woken yet, which takes long on a busy machine.
            if self._role.locked() or self._asking.locked():
                time.sleep(AWAY_IDLE_S)  # each look costs the caller that reads
            elif away_s > 0 or not self._role.acquire(blocking=False):
                time.sleep(max(away_s, AWAY_WAITED_S))
            else:
                self._keeper_reads = True
                self._reader = threading.get_ident()
                try:
                    self._keep_reading()
                finally:
                    self._reader = 0
                    self._keeper_reads = False
                    self._last_read = time.monotonic()
                    self._role.release()

    def _keep_reading(self) -> None:
        """Reads until a caller wants to, or the connection is lost."""
        known = self._engine.connection
        if known is not None:
            known.poller.register(self._wake_read, select.POLLIN)
        try:
            self._keep_reading_from(known)
        finally:
            if known is not None:
                known.poller.unregister(self._wake_read)

    def _keep_reading_from(self, known: Connection | None) -> None:
        while not self._closed and known is not None and self._engine.connection is known:
            with self._lock:
                more = self._engine.drain()
                if not self._engine.waiting:
                    self._engine.acknowledge()
                    more = self._engine.drain()
            self._resolve()
            if more:
                continue
            for descriptor, _ in known.poller.poll(LOOK_S * 1000 if self._engine.waiting else None):
                if descriptor == self._wake_read:
                    self._hear_nudges()
                    return
                self._woken(known, descriptor)
            self._look_at_deadlines()

    def _redial(self, pause_s: float) -> float:
        """One try to connect; returns the pause before the next."""
        self._wanted.clear()  # before the try: what is wanted during it must not be slept over
        if self._closed:
            return pause_s
        refused, self._engine.refused = self._engine.refused, None
        try:
            if isinstance(refused, ProtocolError):
                raise refused  # sent again, it would be refused again
            self._dial()
        except HpcserveError as error:
            with self._lock:
                if not error.retryable:
                    self._engine.fail_all(error)
                self._engine.expire()
            self._resolve()
            if not self._engine.waiting:
                self._wanted.wait()
            else:
                time.sleep(pause_s)
            return min(2 * pause_s, LONGEST_PAUSE_S)
        return FIRST_PAUSE_S

    def _dial(self) -> None:
        told: list[tuple[int, tuple[Counter, ...]]] = []

        def waits_for() -> tuple[int, tuple[Counter, ...]]:
            with self._lock:
                told.append(self._engine.waits_for())
            return told[-1]

        connection = dial(self._context, self._service, self._keys, nonce=self._engine.nonce, waits_for=waits_for)
        with self._lock:
            self._engine.connected(connection, told[-1])
            self._engine.drain()
        self._resolve()

    def _release(self) -> None:
        """Gives back what only a running client needs."""
        self._engine.lost()
        os.close(self._wake_read)
        os.close(self._wake_write)
        # Not term(): a signal may have cut a dial short, and left a socket that term() would wait for.
        self._context.destroy(linger=0)


def _close_at_exit(client: Client) -> Callable[[], None]:
    reference = weakref.ref(client)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    atexit.register(close)
    return close
