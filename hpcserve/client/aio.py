"""The client for asyncio. One event loop owns it; nothing else may use it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from hpcserve.auth.tokens import Kept
from hpcserve.client.aio_future import AsyncInferenceFuture
from hpcserve.client.aio_keeper import AsyncKeeper
from hpcserve.client.aio_stream import AsyncStream
from hpcserve.client.arguments import bound, check_agrees, each_of, seconds, service_named
from hpcserve.client.call import AdminCall, Inference, Inputs, Pending
from hpcserve.client.consents import Consents
from hpcserve.client.landing import Landing
from hpcserve.client.login import Asks, Login
from hpcserve.client.outputs import Outputs
from hpcserve.client.sending import Sending, Transfer
from hpcserve.client.services import Service, find_service
from hpcserve.client.streaming import WINDOW, Came, Streaming
from hpcserve.client.ways import way_to
from hpcserve.core.destinations import directory
from hpcserve.core.tiers import AUTO
from hpcserve.errors import HpcserveError, ServiceUnavailable
from hpcserve.types import Counter
from hpcserve.wire.admin import Admin, Delivered, Noted

if TYPE_CHECKING:
    from hpcserve.client.submitting import Agrees

TELL_S = 30.0

T = TypeVar("T")


class AsyncClient:
    """As :class:`hpcserve.Client`, for asyncio. Use it as ``async with AsyncClient() as client:``.

    Args:
        service: See :class:`hpcserve.Client`.
        timeout_s: The deadline of a call that names none, in seconds; None: without end.
        asks: See :class:`hpcserve.Client`; called by a thread of its own.
        agrees: See :class:`hpcserve.Client`; called by a thread of its own.
        large_to: See :class:`hpcserve.Client`.
    """

    def __init__(
        self,
        service: str | Service | None = None,
        *,
        timeout_s: float | None = 60.0,
        asks: Asks | None = None,
        agrees: Agrees | None = None,
        large_to: str | None = None,
    ) -> None:
        seconds(timeout_s)
        check_agrees(agrees)
        self._large_to = directory(large_to)
        self.timeout_s = timeout_s
        self._login = Login(asks)
        self._service = find_service(service_named(service))
        self._keeper = AsyncKeeper(way_to(self._service), self._login)
        self._engine = self._keeper.engine
        self._landing = Landing()
        self._asks, self._agrees = asks, agrees
        self._consents: Consents | None = None

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
        await self._keeper.open()
        self._engine.fetching.delivered = partial(self._tell_delivered, asyncio.get_running_loop())
        ask = self._engine.fetching.ask = partial(self._ask, asyncio.get_running_loop())
        if self._agrees is not None:
            self._consents = Consents(ask, self._service, asks=self._asks, agrees=self._agrees)
        self._engine.fetching.consents = self._consents
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the session; calls without an answer fail with Cancelled at once. May be called twice."""
        if self._consents is not None:
            self._consents.stop()
        if self._keeper.is_open:
            self._landing.close()
        await self._keeper.close()
        if self._consents is not None:
            await asyncio.to_thread(self._consents.close)

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
        sending = Sending.asked(to, keep_login=keep_login)
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
        self._keeper.check_open()
        future = AsyncInferenceFuture(asyncio.get_running_loop())

        def progress(transfer: Transfer) -> None:
            future.transfer = transfer

        sending = Sending.asked(to, keep_login=keep_login, seen=progress)
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
            self._keeper.resolve()

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
        self._keeper.check_open()
        deadline_s = self.timeout_s if timeout_s is None else timeout_s
        call = Streaming(
            endpoint, inputs, parameters=parameters, timeout_s=deadline_s, priority=priority, window=window
        )
        id = self._engine.stream(call)
        self._keeper.sent()
        return AsyncStream(call, partial(self._has_read, id, call), partial(self._leave, id))

    async def call(self, verb: str, arguments: Admin, answer: type[T], *, timeout_s: float | None = 30.0) -> T:
        """See :meth:`hpcserve.Client.call`."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._keeper.check_open()
        self._engine.admin(AdminCall(verb, arguments, answer, timeout_s, _resolver(future)))
        self._keeper.sent()
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
        self._keeper.check_open()
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
        self._keeper.sent()
        return id

    async def _go_on(self, call: Inference, seen: Callable[[Transfer], None]) -> Outputs:
        self._keeper.check_open()
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
                self._keeper.check_open()
                self._engine.admin(AdminCall(verb, arguments, answer, TELL_S, _resolver(answered)))
                self._keeper.sent()
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
            if self._keeper.is_open:
                self._engine.admin(AdminCall("delivered", Delivered(paths=(path,)), Noted, TELL_S))
                self._keeper.sent()

        _tell(loop, tell)

    def _has_read(self, id: Counter, call: Streaming, item: Came) -> None:
        if call.incoming.read(item.size_bytes) and self._keeper.is_open:
            self._engine.streams.more(id, call)
            self._keeper.sent()

    def _leave(self, id: Counter) -> None:
        if self._keeper.is_open:
            self._engine.cancel(id)
            self._keeper.sent()

    def _take_back(self, id: Counter, future: asyncio.Future[Outputs]) -> None:
        if future.cancelled():
            self._engine.cancel(id)
            self._keeper.resolve()


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
