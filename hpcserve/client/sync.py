"""The thread-safe client: its public calls.

How threads share the connection is decided in :mod:`hpcserve.client.shared`, who keeps it while nobody waits
in :mod:`hpcserve.client.keeper`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import zmq

from hpcserve.auth.tokens import Kept
from hpcserve.client import forks
from hpcserve.client.arguments import bound, check_agrees, each_of, seconds, service_named
from hpcserve.client.call import AdminCall, Inference, Inputs
from hpcserve.client.consents import Consents
from hpcserve.client.future import InferenceFuture
from hpcserve.client.keeper import Keeper
from hpcserve.client.keys import client_keys
from hpcserve.client.landing import Landing
from hpcserve.client.login import Asks, Login
from hpcserve.client.outputs import Outputs
from hpcserve.client.sending import Sending, Transfer
from hpcserve.client.services import Service, find_service
from hpcserve.client.shared import SharedEngine
from hpcserve.client.stream import Stream
from hpcserve.client.streaming import WINDOW, Streaming
from hpcserve.client.ways import way_to
from hpcserve.core.destinations import directory
from hpcserve.core.tiers import AUTO
from hpcserve.errors import InvalidInput
from hpcserve.types import Counter
from hpcserve.wire.admin import Admin, Delivered, Noted

if TYPE_CHECKING:
    from hpcserve.client.submitting import Agrees

TELL_S = 30.0

T = TypeVar("T")


class Client:
    """Calls endpoints of one service. Safe to use from any number of threads.

    Args:
        service: A name from ``hpcserve service list``, an address ``ssh://login``, or a Service; default:
            ``HPCSERVE_SERVICE``, the one in use, or the daemon of the default site on this machine.
        timeout_s: The deadline of a call that names none, in seconds; None: without end.
        asks: Who is asked where the service wants somebody to log in; None: LoginRequired is raised.
        agrees: Asked before a transfer is submitted by a login of yours, where Globus takes it from nobody else:
            ``agrees(told, is_named=...)`` is told all of it, and whether it goes to where you named and nowhere else.
            With it the client sees to what transfers want, logins at the service too, by ``asks`` or by a program's
            secret; None: LoginRequired is raised.
        large_to: Where Globus Transfer brings what is too large for all other ways: ``globus://COLLECTION/DIRECTORY/``.

    Raises:
        NotFound: No service has this name.
        ServiceUnavailable: No daemon answers.
        AuthenticationError: The daemon is not the one that was pinned, or does not know our key.
        LoginRequired: The service wants a login: ``hpcserve login``.
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
        found = find_service(service_named(service))
        self._way = way_to(found)
        self._login = Login(asks)
        self._process, self._cut_short = os.getpid(), False
        keys = client_keys()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._shared = SharedEngine()
        self._landing = Landing()
        self._shared.engine.fetching.delivered = self._tell_delivered
        self._shared.engine.fetching.ask = self.call
        self._consents = None if agrees is None else Consents(self.call, found, asks=asks, agrees=agrees)
        self._shared.engine.fetching.consents = self._consents
        forks.watch(self._shared, SharedEngine.forked, self._context)
        self._keeper = Keeper(self._shared, self._context, self._way, keys, self._login)
        try:
            self._keeper.start()
        except BaseException:
            self._release()
            raise
        # Without this an interpreter that ends with an open client would wait for its sockets.
        atexit.register(self.close)

    @property
    def session_bytes(self) -> int:
        """How many bytes of requests may be on their way at once: the largest request has no more."""
        return self._shared.engine.session_bytes

    @property
    def login(self) -> Kept | None:
        """The login with Globus by which it came in, as it is kept now; None: it needed none."""
        return self._login.kept

    # --- the public calls -----------------------------------------------------------------------------

    def infer(
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
        """Calls ``endpoint`` (``NAME`` or ``NAME.METHOD``) and waits for the answer.

        Args:
            endpoint: The endpoint's name, with ``.METHOD`` where the servable has several.
            inputs: Arrays by name, or one array for a method with one input. Large arrays are not copied:
                leave them alone until this returns.
            parameters: JSON-like values for the method.
            timeout_s: The deadline in seconds; default: the client's.
            priority: Higher goes first.
            reply: How the result is to come. ``auto``: in its message, or, when it is large, in a file that is seen
                here, that comes by HTTPS, or that is brought to ``large_to``, whichever does first; ``inline``: in the
                message; ``staged``: in a file, and the outputs are left there until they are asked for.
            to: Where the result is to be brought by Globus Transfer: ``globus://COLLECTION/DIRECTORY/``. It has arrived
                when this returns, and ``.sent`` of the outputs says where. ``timeout_s`` is the time to compute it.
            keep_login: Let the service keep a login of yours, encrypted, until it has arrived.

        Returns:
            The outputs by name.

        Raises:
            HpcserveError: See :mod:`hpcserve.errors`; an error of the servable has its ``remote_traceback``.
        """
        sending = Sending.asked(to, keep_login=keep_login)
        call = self._inference(
            endpoint, inputs, parameters, timeout_s, priority, reply=reply, sending=sending, own=False
        )
        id = self._shared.start(call)
        try:
            self._shared.wait(call, None)
        except BaseException:  # Ctrl-C: nobody waits any more, and the arrays are the caller's again
            self._shared.cancel(id)
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
        reply: str = AUTO,
        to: str | None = None,
        keep_login: bool = False,
    ) -> InferenceFuture:
        """As :meth:`infer`, but returns at once. The inputs are copied. ``.transfer`` says how far a result is."""
        future = InferenceFuture()

        def progress(transfer: Transfer) -> None:
            future.transfer = transfer

        sending = Sending.asked(to, keep_login=keep_login, seen=progress)
        large = None if self._large_to is None else Sending(self._large_to, seen=progress)

        def resolve(call: Inference) -> None:
            # False: somebody cancelled the future, and nobody wants the answer.
            if not future.set_running_or_notify_cancel():
                return
            if call.staged is None:
                settle(call)
            else:
                self._landing.land(call, settle)

        def settle(call: Inference) -> None:
            if call.error is None:
                future.set_result(call.value)
            else:
                future.set_exception(call.error)

        call = self._inference(
            endpoint,
            inputs,
            parameters,
            timeout_s,
            priority,
            reply=reply,
            sending=sending,
            large=large,
            own=True,
            on_done=resolve,
        )
        id = self._shared.start(call)
        future.arm(partial(self._shared.wait, call), partial(self._shared.cancel, id), call)
        self._shared.wanted.set()
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
        reply: str = AUTO,
    ) -> Generator[Outputs, None, None]:
        """Calls ``endpoint`` for each item and yields the outputs in the items' order.

        At most ``in_flight`` requests are out at any time; ``items`` is read no further ahead than that, so
        it may be endless. An error is raised in its item's turn, and what is still out is taken back, as it is
        when the generator is closed.
        """
        most = bound(in_flight)
        calls: deque[tuple[Counter, Inference]] = deque()
        try:
            for item in each_of(items):
                call = self._inference(endpoint, item, parameters, timeout_s, priority, reply=reply, own=True)
                calls.append((self._shared.start(call), call))
                if len(calls) >= most:
                    yield self._next_of(calls)
            while calls:
                yield self._next_of(calls)
        finally:
            for id, _ in calls:
                self._shared.abandon(id)

    def stream(
        self,
        endpoint: str,
        inputs: Inputs,
        *,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        window: int = WINDOW,
    ) -> Stream:
        """Calls a method that yields a stream, and returns an iterator of its items.

        Each item comes once, in order; an error comes after the items before it. Closing the iterator, as ``with``
        does, ends the producer; so does dropping it.

        Args:
            endpoint: As for :meth:`infer`.
            inputs: As for :meth:`infer`; they are copied.
            parameters: As for :meth:`infer`.
            timeout_s: The deadline of the whole stream in seconds; default: the client's.
            priority: As for :meth:`infer`; it counts until the stream begins.
            window: Most items that are made before the reader takes them.
        """
        deadline_s = self.timeout_s if timeout_s is None else timeout_s
        call = Streaming(
            endpoint, inputs, parameters=parameters, timeout_s=deadline_s, priority=priority, window=window
        )
        return Stream(self._shared, self._shared.open(call), call)

    def call(self, verb: str, arguments: Admin, answer: type[T], *, timeout_s: float | None = 30.0) -> T:
        """An administrative call, such as the command line makes.

        Args:
            verb: The call's name.
            arguments: The verb's struct of :mod:`hpcserve.wire.admin`.
            answer: The struct of its answer.
            timeout_s: How long to wait, in seconds; None: without end.
        """
        call = AdminCall(verb, arguments, answer, timeout_s)
        self._shared.admin(call)
        self._shared.wait(call, None)
        outcome: T = call.outcome()
        return outcome

    def close(self) -> None:
        """Ends the session; calls without an answer fail with Cancelled at once. May be called twice."""
        goes_on = self._cut_short and os.getpid() == self._process
        if self._shared.closed and not goes_on:  # in a forked child, too, where nobody lets go of locks
            return
        try:
            if self._consents is not None:
                self._consents.stop()
            self._landing.close()
            if not self._shared.close() and not goes_on:
                return
            self._way.interrupt()
            self._login.interrupt()
            self._keeper.join()
            self._release()
            if self._consents is not None:
                self._consents.close()
            self._cut_short = False
            atexit.unregister(self.close)
        except BaseException:  # Ctrl-C: who closes it again goes on, the interpreter at its end for one
            self._cut_short = True
            raise

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
        reply: str,
        own: bool,
        sending: Sending | None = None,
        large: Sending | None = None,
        on_done: Callable[[Any], None] | None = None,
    ) -> Inference:
        if large is None and self._large_to is not None:
            large = Sending(self._large_to)
        deadline_s = self.timeout_s if timeout_s is None else timeout_s
        return Inference(
            endpoint,
            inputs,
            parameters=parameters,
            timeout_s=deadline_s,
            priority=priority,
            own=own,
            reply=reply,
            sending=sending,
            large=large,
            on_done=on_done,
        )

    def _tell_delivered(self, path: str) -> None:
        """The service may remove a file from now on. Nobody waits for its answer."""
        with contextlib.suppress(InvalidInput):  # it is closed: the file stays for as long as if none had it
            self._shared.admin(AdminCall("delivered", Delivered(paths=(path,)), Noted, TELL_S))

    def _next_of(self, calls: deque[tuple[Counter, Inference]]) -> Outputs:
        call = calls[0][1]
        if not call.done:
            self._shared.wait(call, None)
        calls.popleft()
        outcome: Outputs = call.outcome()
        return outcome

    def _release(self) -> None:
        """Gives back what only a running client needs."""
        self._shared.release()
        # Not term(): a signal may have cut a dial short, and left a socket that term() would wait for.
        self._context.destroy(linger=0)
        self._way.close()
