"""The client for asyncio. One event loop owns it; nothing else may use it.

The socket's descriptor is edge-triggered, and sending may swallow an edge: after each send the loop looks
at the socket once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Self, TypeVar

import zmq

from hpcserve.auth.tokens import Kept
from hpcserve.client import forks
from hpcserve.client.aio_future import AsyncInferenceFuture
from hpcserve.client.aio_stream import AsyncStream
from hpcserve.client.arguments import FOREVER, bound, each_of, seconds, service_named
from hpcserve.client.call import AdminCall, Inference, Inputs, Pending
from hpcserve.client.dial import Connection, dial, say_hello_again
from hpcserve.client.engine import Engine
from hpcserve.client.keys import client_keys
from hpcserve.client.landing import Landing
from hpcserve.client.login import Asks, Login
from hpcserve.client.outputs import Outputs
from hpcserve.client.pauses import Patience, Pauses
from hpcserve.client.renewal import Renewal
from hpcserve.client.sending import Sending, Transfer
from hpcserve.client.services import Service, find_service
from hpcserve.client.streaming import WINDOW, Came, Streaming
from hpcserve.client.ways import way_to
from hpcserve.core.destinations import directory
from hpcserve.core.tiers import AUTO
from hpcserve.errors import HpcserveError, InvalidInput, ProtocolError, ServiceUnavailable
from hpcserve.types import Counter
from hpcserve.wire.admin import Admin, Delivered, Noted

ACK_S = 0.02
TELL_S = 30.0
LOOK_S = 0.1
ASKED_S = 10.0  # so long a loop that is busy may let the dialling thread wait
LONGEST_PAUSE_S = 1.0  # while nobody answers
LONGEST_FAILED_S = 4.0  # while something fails that nobody has foreseen

T = TypeVar("T")


class AsyncClient:
    """As :class:`hpcserve.Client`, for asyncio. Use it as ``async with AsyncClient() as client:``.

    Args:
        service: See :class:`hpcserve.Client`.
        timeout_s: The deadline of a call that names none, in seconds; None: without end.
        asks: See :class:`hpcserve.Client`; called by a thread of its own.
        large_to: See :class:`hpcserve.Client`.
    """

    def __init__(
        self,
        service: str | Service | None = None,
        *,
        timeout_s: float | None = 60.0,
        asks: Asks | None = None,
        large_to: str | None = None,
    ) -> None:
        seconds(timeout_s)
        self._large_to = directory(large_to)
        self.timeout_s = timeout_s
        self._way = way_to(find_service(service_named(service)))
        self._keys = client_keys()
        self._login = Login(asks)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._renewal = Renewal(partial(say_hello_again, self._context, self._way, self._keys, self._login))
        self._engine = Engine()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._watched: Connection | None = None
        self._due: asyncio.TimerHandle | None = None
        self._due_at = FOREVER
        self._is_fork = False
        self._landing = Landing()
        forks.watch(self, AsyncClient._forked, self._context)

    @property
    def session_bytes(self) -> int:
        """See :attr:`hpcserve.Client.session_bytes`."""
        return self._engine.session_bytes

    @property
    def login(self) -> Kept | None:
        """See :attr:`hpcserve.Client.login`."""
        return self._login.kept

    async def __aenter__(self) -> Self:
        """Connects.

        Raises:
            HpcserveError: As for :class:`hpcserve.Client`.
        """
        if self._is_fork or self._task is not None or self._context.closed:
            raise self._not_open()
        try:
            await self._dial_at_first()
        except BaseException:
            await self._release()
            raise
        self._engine.fetching.delivered = partial(self._tell_delivered, asyncio.get_running_loop())
        self._engine.fetching.ask = partial(self._ask, asyncio.get_running_loop())
        self._task = asyncio.create_task(self._keep(), name="hpcserve-client")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the session; calls without an answer fail with Cancelled at once. May be called twice."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._due is not None:
            self._due.cancel()
        self._landing.close()
        self._unwatch()  # before the descriptors are closed, and perhaps somebody else's
        self._engine.bye()
        self._resolve()
        self._way.interrupt()
        self._login.interrupt()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._drop()
        await self._release()

    async def infer(
        self,
        endpoint: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        reply: str = AUTO,
        to: str | None = None,
        keep_login: bool = False,
    ) -> Outputs:
        """See :meth:`hpcserve.Client.infer`. Cancelling the task takes the request back."""
        sending = None if to is None else Sending(to, keep_login=keep_login)
        id, future = self._start(endpoint, inputs, parameters, timeout_s, priority, reply=reply, sending=sending)
        try:
            return await future
        except asyncio.CancelledError:
            self._take_back(id, future)
            raise

    def submit(
        self,
        endpoint: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        reply: str = AUTO,
        to: str | None = None,
        keep_login: bool = False,
    ) -> AsyncInferenceFuture:
        """As :meth:`infer`, but sends the request at once and returns its future. ``cancel()`` takes it back."""
        self._check_open()
        future = AsyncInferenceFuture(asyncio.get_running_loop())

        def progress(transfer: Transfer) -> None:
            future.transfer = transfer

        sending = None if to is None else Sending(to, keep_login=keep_login, seen=progress)
        call = self._call_of(
            endpoint, inputs, parameters, timeout_s, priority, reply=reply, sending=sending, seen=progress
        )
        id = self._begin(call, future)
        future.arm(partial(self._go_on, call))
        future.add_done_callback(partial(self._take_back, id))
        return future

    async def map(
        self,
        endpoint: str,
        items: Iterable[Inputs],
        *,
        in_flight: int = 64,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        reply: str = AUTO,
    ) -> AsyncGenerator[Outputs, None]:
        """See :meth:`hpcserve.Client.map`."""
        most = bound(in_flight)
        calls: deque[tuple[Counter, asyncio.Future[Outputs]]] = deque()
        try:
            for item in each_of(items):
                calls.append(self._start(endpoint, item, parameters, timeout_s, priority, reply=reply))
                if len(calls) >= most:
                    yield await calls[0][1]
                    calls.popleft()
            while calls:
                yield await calls[0][1]
                calls.popleft()
        finally:
            for id, future in calls:
                if not future.done():
                    future.cancel()
                    self._engine.cancel(id)
            self._resolve()

    def stream(
        self,
        endpoint: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        window: int = WINDOW,
    ) -> AsyncStream:
        """See :meth:`hpcserve.Client.stream`; for ``async for``. ``aclose()`` ends the producer."""
        self._check_open()
        deadline_s = self.timeout_s if timeout_s is None else timeout_s
        call = Streaming(
            endpoint, inputs, parameters=parameters, timeout_s=deadline_s, priority=priority, window=window
        )
        id = self._engine.stream(call)
        self._sent()
        return AsyncStream(call, partial(self._has_read, id, call), partial(self._leave, id))

    async def call(self, verb: str, arguments: Admin, answer: type[T], *, timeout_s: float | None = 30.0) -> T:
        """See :meth:`hpcserve.Client.call`."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._check_open()
        self._engine.admin(AdminCall(verb, arguments, answer, timeout_s, _resolver(future)))
        self._sent()
        return await future

    # --- inside ---------------------------------------------------------------------------------------

    def _start(
        self,
        endpoint: str,
        inputs: Inputs,
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
        priority: int,
        *,
        reply: str,
        sending: Sending | None = None,
    ) -> tuple[Counter, asyncio.Future[Outputs]]:
        self._check_open()
        future: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        call = self._call_of(endpoint, inputs, parameters, timeout_s, priority, reply=reply, sending=sending)
        return self._begin(call, future), future

    def _call_of(
        self,
        endpoint: str,
        inputs: Inputs,
        parameters: Mapping[str, Any] | None,
        timeout_s: float | None,
        priority: int,
        *,
        reply: str,
        sending: Sending | None,
        seen: Callable[[Transfer], None] = lambda _: None,
    ) -> Inference:
        return Inference(
            endpoint,
            inputs,
            parameters=parameters,
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            priority=priority,
            own=True,
            reply=reply,
            sending=sending,
            large=None if self._large_to is None else Sending(self._large_to, seen=seen),
        )

    def _begin(self, call: Inference, future: asyncio.Future[Outputs]) -> Counter:
        call.on_done = partial(self._landed, _resolver(future))
        id = self._engine.infer(call)
        self._sent()
        return id

    async def _go_on(self, call: Inference, seen: Callable[[Transfer], None]) -> Outputs:
        self._check_open()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outputs] = loop.create_future()

        def end(outcome: Outputs | HpcserveError) -> None:
            if future.done():
                return
            if isinstance(outcome, HpcserveError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self._landing.go_on(call, seen, lambda outcome: _tell(loop, partial(end, outcome)))
        return await future

    def _landed(self, resolve: Callable[[Pending], None], call: Inference) -> None:
        """A call has its answer, which may lie in a file."""
        if call.staged is None:
            resolve(call)
            return
        loop = asyncio.get_running_loop()
        self._landing.land(call, lambda landed: _tell(loop, partial(resolve, landed)))

    def _ask(self, loop: asyncio.AbstractEventLoop, verb: str, arguments: Admin, answer: type[T]) -> T:
        """A call, for another thread."""
        answered: Future[T] = Future()

        def ask() -> None:
            try:
                self._check_open()
                self._engine.admin(AdminCall(verb, arguments, answer, TELL_S, _resolver(answered)))
                self._sent()
            except HpcserveError as error:
                answered.set_exception(error)

        _tell(loop, ask)
        try:
            return answered.result(2 * TELL_S)
        except TimeoutError as error:  # the loop is closed, or does something else
            raise ServiceUnavailable(f"{verb}: the event loop has not asked in {2 * TELL_S:g} s") from error

    def _tell_delivered(self, loop: asyncio.AbstractEventLoop, path: str) -> None:
        """The service may remove a file from now on. Nobody waits for its answer; called by any thread."""

        def tell() -> None:
            if self._task is not None:
                self._engine.admin(AdminCall("delivered", Delivered(paths=(path,)), Noted, TELL_S))
                self._sent()

        _tell(loop, tell)

    def _has_read(self, id: Counter, call: Streaming, item: Came) -> None:
        if call.incoming.read(item.size_bytes) and self._task is not None:
            self._engine.streams.more(id, call)
            self._sent()

    def _leave(self, id: Counter) -> None:
        if self._task is not None:
            self._engine.cancel(id)
            self._sent()

    def _take_back(self, id: Counter, future: asyncio.Future[Outputs]) -> None:
        if future.cancelled():
            self._engine.cancel(id)
            self._resolve()

    def _check_open(self) -> None:
        if self._task is None:
            raise self._not_open()

    def _not_open(self) -> InvalidInput:
        if self._is_fork:
            return forks.unusable()
        if self._task is not None:
            return InvalidInput("this client is open already; make one for each async with")
        if self._context.closed:
            return InvalidInput("this client is closed; make a new one")
        return InvalidInput("this client is not open yet; use it as: async with AsyncClient() as client")

    def _forked(self) -> None:
        """In a forked child. The loop's descriptors are the parent's too, so nothing is taken off it."""
        self._is_fork = True
        forks.keep((self._task, self._engine.connection))
        self._task = self._watched = self._due = self._engine.connection = None
        self._engine.finished.clear()

    def _sent(self) -> None:
        self._changed.set()
        self._read()

    def _read(self) -> None:
        try:
            if self._engine.drain():
                asyncio.get_running_loop().call_soon(self._read)
        except ProtocolError as error:
            self._engine.fail_all(error)
            self._engine.lost()
        self._resolve()
        if self._engine.caller.due_at != FOREVER:
            self._mind_refused()
        if self._engine.connection is None:
            self._drop()
            self._changed.set()

    def _mind_refused(self) -> None:
        """Has what was refused sent again in time. Without a connection that waits for one."""
        due_at = self._engine.caller.due_at
        if self._engine.connection is None or (self._due is not None and self._due_at <= due_at):
            return
        if self._due is not None:
            self._due.cancel()
        self._due_at = due_at
        self._due = asyncio.get_running_loop().call_later(max(0.0, due_at - time.monotonic()), self._send_due)

    def _send_due(self) -> None:
        self._due = None
        self._engine.send_due()
        self._read()

    def _resolve(self) -> None:
        while self._engine.finished:
            call = self._engine.finished.popleft()
            if call.on_done is not None:
                call.on_done(call)

    async def _keep(self) -> None:
        """Connects when the connection is lost, acknowledges, and minds the deadlines; whatever happens to it."""
        pauses = Pauses(LONGEST_FAILED_S)
        while self._task is not None:
            try:
                await self._keep_going()
            except Exception as error:  # noqa: BLE001 (without it a client would wait in silence for ever)
                self._engine.fail_all(ServiceUnavailable(f"the connection failed: {error!r}"))
                self._resolve()
                self._drop()
                await self._rest(pauses.after_failure_s())
                await self._until_wanted()

    async def _keep_going(self) -> None:
        pauses, looked = Pauses(LONGEST_PAUSE_S), time.monotonic()
        while self._task is not None:
            if self._engine.connection is None:
                if await self._redial(pauses):
                    pauses = Pauses(LONGEST_PAUSE_S)
                continue
            waiting = self._engine.waiting or self._engine.caller.owes_ack
            self._changed.clear()
            try:
                # Not wait_for(): before Python 3.12 it swallows a cancellation that comes together with a change.
                async with asyncio.timeout((LOOK_S if self._engine.waiting else ACK_S) if waiting else None):
                    await self._changed.wait()
            except TimeoutError:
                looked = 0.0
            else:
                await asyncio.sleep(ACK_S)
            if time.monotonic() - looked >= LOOK_S:
                looked = time.monotonic()
                self._engine.expire()
                self._engine.acknowledge()
                self._engine.leave_if_succeeded()
                self._read()

    async def _redial(self, pauses: Pauses) -> bool:
        """One try to connect, and the pause before the next; whether it succeeded."""
        refused, self._engine.refused = self._engine.refused, None
        self._drop()
        try:
            if isinstance(refused, ProtocolError):
                raise refused
            await self._dial()
        except HpcserveError as error:
            if not error.retryable:
                self._engine.fail_all(error)
        else:
            return True
        self._expire()
        if self._engine.waiting:
            await self._rest(pauses.after_failure_s())
        else:
            await self._until_wanted()
        return False

    async def _rest(self, pause_s: float) -> None:
        """A pause in which deadlines are kept."""
        until = time.monotonic() + pause_s
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, LOOK_S))
            self._expire()

    async def _until_wanted(self) -> None:
        """Returns when there is a call to connect for."""
        while not self._engine.waiting:
            self._changed.clear()
            await self._changed.wait()

    def _expire(self) -> None:
        self._engine.expire()
        self._resolve()

    async def _dial_at_first(self) -> None:
        patience = Patience()
        while True:
            try:
                return await self._dial()
            except ServiceUnavailable as error:
                await asyncio.sleep(patience.pause_s(error))

    async def _dial(self) -> None:
        told: list[tuple[int, tuple[Counter, ...]]] = []
        loop = asyncio.get_running_loop()

        async def ask() -> tuple[int, tuple[Counter, ...]]:
            return self._engine.waits_for()

        def waits_for() -> tuple[int, tuple[Counter, ...]]:
            # In the dialling thread, while the loop starts and cancels calls: so the loop is asked.
            asked = asyncio.run_coroutine_threadsafe(ask(), loop)
            try:
                told.append(asked.result(ASKED_S))
            except TimeoutError as error:
                asked.cancel()
                raise ServiceUnavailable(
                    f"the event loop was busy for {ASKED_S:g} s while its client connected; what takes long belongs "
                    "in a thread: await asyncio.to_thread(…)"
                ) from error
            return told[-1]

        dialling = asyncio.ensure_future(
            asyncio.to_thread(
                dial,
                self._context,
                self._way,
                self._keys,
                nonce=self._engine.nonce,
                waits_for=waits_for,
                login=self._login,
            )
        )
        try:
            while not (await asyncio.wait((dialling,), timeout=LOOK_S))[0]:
                self._expire()
        except BaseException:
            self._way.interrupt()
            self._login.interrupt()
            # The thread goes on for some seconds at most, and what it opens must be closed.
            for opened in await asyncio.gather(dialling, return_exceptions=True):
                if isinstance(opened, Connection):
                    opened.close()
            raise
        connection = dialling.result()
        self._engine.connected(connection, told[-1])
        self._renewal.welcomed(connection.expires_in_s)
        loop.add_reader(connection.socket_fd, self._read)
        loop.add_reader(connection.monitor_fd, self._watch, connection)
        self._watched = connection
        self._read()

    def _watch(self, connection: Connection) -> None:
        if connection is self._engine.connection and connection.is_down():
            self._read()
            self._drop()
            self._changed.set()

    async def _release(self) -> None:
        """Gives back what only an open client needs."""
        self._way.interrupt()
        await asyncio.to_thread(self._renewal.stop)
        self._context.destroy(linger=0)
        await asyncio.to_thread(self._way.close)

    def _drop(self) -> None:
        """Forgets the connection that the loop watches."""
        self._unwatch()
        self._engine.lost()

    def _unwatch(self) -> None:
        loop = asyncio.get_running_loop()
        watched, self._watched = self._watched, None
        if watched is not None:
            loop.remove_reader(watched.socket_fd)
            loop.remove_reader(watched.monitor_fd)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
    """Has the loop do something, from any thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and so is the client
        loop.call_soon_threadsafe(what)


def _resolver(future: asyncio.Future[Any] | Future[Any]) -> Any:
    def resolve(call: Pending) -> None:
        if future.done():
            return
        if call.error is None:
            future.set_result(call.value)
        else:
            future.set_exception(call.error)

    return resolve
