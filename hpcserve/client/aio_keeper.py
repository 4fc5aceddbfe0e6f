"""What the event loop of an :class:`~hpcserve.client.aio.AsyncClient` does by itself: it reads, and dials anew.

The socket's descriptor is edge-triggered, and sending may swallow an edge: after each send the loop looks
at the socket once more.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

import zmq

from hpcserve.client import forks
from hpcserve.client.arguments import FOREVER
from hpcserve.client.dial import Connection, dial, say_hello_again
from hpcserve.client.engine import Engine
from hpcserve.client.keys import client_keys
from hpcserve.client.login import Login
from hpcserve.client.pauses import Patience, Pauses
from hpcserve.client.renewal import Renewal
from hpcserve.client.ways import Way
from hpcserve.errors import HpcserveError, InvalidInput, Overloaded, ProtocolError, ServiceUnavailable
from hpcserve.types import Counter

ACK_S = 0.02
LOOK_S = 0.1
ASKED_S = 10.0  # so long a loop that is busy may let the dialling thread wait
LONGEST_PAUSE_S = 1.0  # while nobody answers
LONGEST_FAILED_S = 4.0  # while something fails that nobody has foreseen


class AsyncKeeper:
    """Keeps one client's connection in the loop that owns the client.

    Args:
        way: How to get to the daemon.
        login: The client's login.
    """

    def __init__(self, way: Way, login: Login) -> None:
        self.engine = Engine()
        self._way = way
        self._login = login
        self._keys = client_keys()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._renewal = Renewal(partial(say_hello_again, self._context, way, self._keys, login))
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._watched: Connection | None = None
        self._due: asyncio.TimerHandle | None = None
        self._due_at = FOREVER
        self._is_fork = False
        forks.watch(self, AsyncKeeper._forked, self._context)

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._task is not None

    async def open(self) -> None:
        """Connects, and keeps the connection from then on.

        Raises:
            HpcserveError: As :func:`hpcserve.client.dial.dial`.
            InvalidInput: It was opened before.
        """
        if self._is_fork or self._task is not None or self._context.closed:
            raise self._not_open()
        try:
            await self._dial_at_first()
        except BaseException:
            await self._release()
            raise
        self._task = asyncio.create_task(self._keep(), name="hpcserve-client")

    async def close(self) -> None:
        """Ends the session; calls without an answer fail with Cancelled at once."""
        task, self._task = self._task, None
        if task is None:
            return
        if self._due is not None:
            self._due.cancel()
        self._unwatch()  # before the descriptors are closed, and perhaps somebody else's
        self.engine.bye()
        self.resolve()
        self._way.interrupt()
        self._login.interrupt()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._drop()
        await self._release()

    def check_open(self) -> None:
        """Calls can be made.

        Raises:
            InvalidInput: They can not, and why.
        """
        if self._task is None:
            raise self._not_open()

    def sent(self) -> None:
        """Something was given to the engine."""
        self._changed.set()
        self._read()

    def resolve(self) -> None:
        """Tells each that waits what it waited for."""
        while self.engine.finished:
            call = self.engine.finished.popleft()
            if call.on_done is not None:
                call.on_done(call)

    # --- inside ---------------------------------------------------------------------------------------

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
        forks.keep((self._task, self.engine.connection))
        self._task = self._watched = self._due = self.engine.connection = None
        self.engine.finished.clear()

    def _read(self) -> None:
        try:
            if self.engine.drain():
                asyncio.get_running_loop().call_soon(self._read)
        except ProtocolError as error:
            self.engine.fail_all(error)
            self.engine.lost()
        self.resolve()
        if self.engine.caller.due_at != FOREVER:
            self._mind_refused()
        if self.engine.connection is None:
            self._drop()
            self._changed.set()

    def _mind_refused(self) -> None:
        """Has what was refused sent again in time. Without a connection that waits for one."""
        due_at = self.engine.caller.due_at
        if self.engine.connection is None or (self._due is not None and self._due_at <= due_at):
            return
        if self._due is not None:
            self._due.cancel()
        self._due_at = due_at
        self._due = asyncio.get_running_loop().call_later(max(0.0, due_at - time.monotonic()), self._send_due)

    def _send_due(self) -> None:
        self._due = None
        self.engine.send_due()
        self._read()

    async def _keep(self) -> None:
        """Connects when the connection is lost, acknowledges, and minds the deadlines; whatever happens to it."""
        pauses = Pauses(LONGEST_FAILED_S)
        while self._task is not None:
            try:
                await self._keep_going()
            except Exception as error:  # noqa: BLE001 (without it a client would wait in silence for ever)
                self.engine.fail_all(ServiceUnavailable(f"the connection failed: {error!r}"))
                self.resolve()
                self._drop()
                await self._rest(pauses.after_failure_s())
                await self._until_wanted()

    async def _keep_going(self) -> None:
        pauses, looked = Pauses(LONGEST_PAUSE_S), time.monotonic()
        while self._task is not None:
            if self.engine.connection is None:
                if await self._redial(pauses):
                    pauses = Pauses(LONGEST_PAUSE_S)
                continue
            waiting = self.engine.waiting or self.engine.caller.owes_ack
            self._changed.clear()
            try:
                # Not wait_for(): before Python 3.12 it swallows a cancellation that comes together with a change.
                async with asyncio.timeout((LOOK_S if self.engine.waiting else ACK_S) if waiting else None):
                    await self._changed.wait()
            except TimeoutError:
                looked = 0.0
            else:
                await asyncio.sleep(ACK_S)
            if time.monotonic() - looked >= LOOK_S:
                looked = time.monotonic()
                self.engine.expire()
                self.engine.acknowledge()
                self.engine.leave_if_succeeded()
                self._read()

    async def _redial(self, pauses: Pauses) -> bool:
        """One try to connect, and the pause before the next; whether it succeeded."""
        refused, self.engine.refused = self.engine.refused, None
        self._drop()
        try:
            if isinstance(refused, ProtocolError):
                raise refused
            await self._dial()
        except HpcserveError as error:
            if not error.retryable:
                self.engine.fail_all(error)
        else:
            return True
        self._expire()
        if self.engine.waiting:
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
        while not self.engine.waiting:
            self._changed.clear()
            await self._changed.wait()

    def _expire(self) -> None:
        self.engine.expire()
        self.resolve()

    async def _dial_at_first(self) -> None:
        patience = Patience()
        while True:
            try:
                return await self._dial()
            except (Overloaded, ServiceUnavailable) as error:
                await asyncio.sleep(patience.pause_s(error))

    async def _dial(self) -> None:
        told: list[tuple[int, tuple[Counter, ...]]] = []
        loop = asyncio.get_running_loop()

        async def ask() -> tuple[int, tuple[Counter, ...]]:
            return self.engine.waits_for()

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
                nonce=self.engine.nonce,
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
        self.engine.connected(connection, told[-1])
        self._renewal.welcomed(connection.expires_in_s)
        loop.add_reader(connection.socket_fd, self._read)
        loop.add_reader(connection.monitor_fd, self._watch, connection)
        self._watched = connection
        self._read()

    def _watch(self, connection: Connection) -> None:
        if connection is self.engine.connection and connection.is_down():
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
        self.engine.lost()

    def _unwatch(self) -> None:
        loop = asyncio.get_running_loop()
        watched, self._watched = self._watched, None
        if watched is not None:
            loop.remove_reader(watched.socket_fd)
            loop.remove_reader(watched.monitor_fd)
