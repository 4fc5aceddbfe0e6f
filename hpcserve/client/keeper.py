"""The background thread of a thread-safe client: it reads when nobody else does.

It completes futures, acknowledges, watches the connection and dials anew when it is lost. While callers
come and go quickly it stays away (``AWAY_*``).
"""

from __future__ import annotations

import select
import threading
import time
from concurrent.futures import Future, wait
from functools import partial

import zmq

from hpcserve.auth.keys import KeyPair
from hpcserve.client.dial import Connection, dial, say_hello_again
from hpcserve.client.login import Login
from hpcserve.client.pauses import Patience, Pauses
from hpcserve.client.renewal import Renewal
from hpcserve.client.shared import LOOK_S, SharedEngine
from hpcserve.client.ways import Way
from hpcserve.errors import HpcserveError, Overloaded, ProtocolError, ServiceUnavailable
from hpcserve.types import Counter

AWAY_WAITED_S = 0.005  # the keeper takes over so long after the last reader left calls unanswered
AWAY_IDLE_S = 0.02  # and so long after the last reader left none
LONGEST_PAUSE_S = 1.0  # while nobody answers
LONGEST_FAILED_S = 4.0  # while something fails that nobody has foreseen

_Told = tuple[int, tuple[Counter, ...]]
_Dialled = tuple[Connection, _Told]


class Keeper:
    """Keeps one client's connection.

    Args:
        shared: The client's engine.
        context: Where the sockets are made.
        way: How to get to the daemon.
        keys: The user's own key pair.
        login: The client's login.
    """

    def __init__(
        self, shared: SharedEngine, context: zmq.Context[zmq.Socket[bytes]], way: Way, keys: KeyPair, login: Login
    ) -> None:
        self._shared = shared
        self._engine = shared.engine
        self._context = context
        self._way = way
        self._keys = keys
        self._login = login
        self._renewal = Renewal(partial(say_hello_again, context, way, keys, login))
        self._thread = threading.Thread(target=self._keep, name="hpcserve-client", daemon=True)
        self._dialling: threading.Thread | None = None

    def start(self) -> None:
        """Connects, and keeps the connection from then on.

        Raises:
            HpcserveError: As :func:`hpcserve.client.dial.dial`.
        """
        patience = Patience()
        while True:
            try:
                dialled = self._dialled()
                break
            except (Overloaded, ServiceUnavailable) as error:
                time.sleep(patience.pause_s(error))
        self._connected(*dialled)
        self._thread.start()

    def join(self) -> None:
        """Waits until no thread of ours uses a socket, after the engine was closed. May be called in a callback."""
        if threading.current_thread() is not self._thread:
            self._thread.join()
        elif self._dialling is not None:
            self._dialling.join()
        self._renewal.stop()

    def _keep(self) -> None:
        pauses = Pauses(LONGEST_FAILED_S)
        while not self._shared.closed:
            try:
                self._keep_going()
            except Exception as error:  # noqa: BLE001 (without its keeper a client would wait in silence for ever)
                with self._shared.lock:
                    self._engine.fail_all(ServiceUnavailable(f"the connection failed: {error!r}"))
                    self._engine.lost()
                self._shared.resolve()
                self._rest(pauses.after_failure_s())
                if not self._engine.waiting:
                    self._shared.wanted.wait()

    def _rest(self, pause_s: float) -> None:
        """A pause in which deadlines are kept, and which the client's end cuts short."""
        until = time.monotonic() + pause_s
        while not self._shared.closed and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_S))
            self._shared.look_at_deadlines()

    def _keep_going(self) -> None:
        pauses = Pauses(LONGEST_PAUSE_S)
        while not self._shared.closed:
            if self._engine.connection is None:
                if self._redial(pauses):
                    pauses = Pauses(LONGEST_PAUSE_S)
                continue
            since_s = time.monotonic() - self._shared.last_read
            away_s = (AWAY_WAITED_S if self._engine.waiting else AWAY_IDLE_S) - since_s
            # Never in line for the role: it would be handed over at each pause of a caller that reads in a loop.
            # Nor before a caller that has asked for it and was not woken yet, which takes long on a busy machine.
            if self._shared.reader or self._shared.asker:
                time.sleep(AWAY_IDLE_S)  # each look costs the caller that reads
            elif away_s > 0 or not self._shared.role.acquire(blocking=False):
                time.sleep(max(away_s, AWAY_WAITED_S))
            else:
                self._shared.keeper_reads = True
                self._shared.reader = threading.get_ident()
                try:
                    self._keep_reading()
                finally:
                    self._shared.reader = 0
                    self._shared.keeper_reads = False
                    self._shared.last_read = time.monotonic()
                    self._shared.role.release()

    def _keep_reading(self) -> None:
        """Reads until a caller wants to, or the connection is lost."""
        known = self._engine.connection
        if known is not None:
            known.poller.register(self._shared.wake_read, select.POLLIN)
        try:
            self._keep_reading_from(known)
        finally:
            if known is not None:
                known.poller.unregister(self._shared.wake_read)

    def _keep_reading_from(self, known: Connection | None) -> None:
        while not self._shared.closed and known is not None and self._engine.connection is known:
            with self._shared.lock:
                more = self._engine.drain()
                if not self._engine.waiting:
                    self._engine.acknowledge()
                    more = self._engine.drain()
                rests = self._shared.keeper_rests = not self._engine.waiting
            self._shared.resolve()
            if more or self._shared.closed:  # by a callback, in this very thread: the descriptors are others' by now
                continue
            for descriptor, _ in known.poller.poll(None if rests else self._shared.look_in_s() * 1000):
                if descriptor == self._shared.wake_read:
                    self._shared.hear_nudges()
                    return
                self._shared.woken(known, descriptor)
            self._shared.look_at_deadlines()

    def _redial(self, pauses: Pauses) -> bool:
        """One try to connect, and the pause before the next; whether it succeeded."""
        self._shared.wanted.clear()  # before the try: what is wanted during it must not be slept over
        if self._shared.closed:
            return False
        refused, self._engine.refused = self._engine.refused, None
        try:
            if isinstance(refused, ProtocolError):
                raise refused  # sent again, it would be refused again
            self._dial_beside()
        except HpcserveError as error:
            with self._shared.lock:
                if not error.retryable:
                    self._engine.fail_all(error)
                self._engine.expire()
            self._shared.resolve()
            if self._engine.waiting:
                self._rest(pauses.after_failure_s())
            else:
                self._shared.wanted.wait()
            return False
        return True

    def _dial_beside(self) -> None:
        """Dials in a thread of its own, which may take seconds: deadlines are kept meanwhile."""
        dialled: Future[_Dialled] = Future()

        def dial_now() -> None:
            try:
                dialled.set_result(self._dialled())
            except BaseException as error:  # noqa: BLE001 (the keeper raises it)
                dialled.set_exception(error)

        self._dialling = threading.Thread(target=dial_now, name="hpcserve-dial", daemon=True)
        self._dialling.start()
        while not wait((dialled,), timeout=LOOK_S).done:
            self._shared.look_at_deadlines()
        self._connected(*dialled.result())

    def _dialled(self) -> _Dialled:
        """A new connection, and what was said to be outstanding."""
        told: list[_Told] = []

        def waits_for() -> _Told:
            with self._shared.lock:
                told.append(self._engine.waits_for())
            return told[-1]

        connection = dial(
            self._context, self._way, self._keys, nonce=self._engine.nonce, waits_for=waits_for, login=self._login
        )
        return connection, told[-1]

    def _connected(self, connection: Connection, told: _Told) -> None:
        with self._shared.lock:
            if self._shared.closed:
                if not self._context.closed:  # as it is if a callback of this very thread has closed the client
                    connection.close()
                return
            self._engine.connected(connection, told)
            self._renewal.welcomed(connection.expires_in_s)
            self._engine.drain()
        self._shared.resolve()
