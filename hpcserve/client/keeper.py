"""The background thread of a thread-safe client: it reads when nobody else does.

It completes futures, acknowledges, watches the connection and dials anew when it is lost. While callers
come and go quickly it stays away (``AWAY_*``).
"""

from __future__ import annotations

import select
import threading
import time

import zmq

from hpcserve.auth.keys import KeyPair
from hpcserve.client.dial import Connection, dial
from hpcserve.client.services import Service
from hpcserve.client.shared import LOOK_S, SharedEngine
from hpcserve.errors import HpcserveError, ProtocolError, ServiceUnavailable
from hpcserve.types import Counter

AWAY_WAITED_S = 0.005  # the keeper takes over so long after the last reader left calls unanswered
AWAY_IDLE_S = 0.02  # and so long after the last reader left none
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0


class Keeper:
    """Keeps one client's connection.

    Args:
        shared: The client's engine.
        context: Where the sockets are made.
        service: Whose daemon.
        keys: The user's own key pair.
    """

    def __init__(
        self, shared: SharedEngine, context: zmq.Context[zmq.Socket[bytes]], service: Service, keys: KeyPair
    ) -> None:
        self._shared = shared
        self._engine = shared.engine
        self._context = context
        self._service = service
        self._keys = keys
        self._thread = threading.Thread(target=self._keep, name="hpcserve-client", daemon=True)

    def start(self) -> None:
        """Connects, and keeps the connection from then on.

        Raises:
            HpcserveError: As :func:`hpcserve.client.dial.dial`.
        """
        self._dial()
        self._thread.start()

    def join(self) -> None:
        """Waits for the thread's end, after the engine was closed. A callback in that very thread does not wait."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _keep(self) -> None:
        while not self._shared.closed:
            try:
                self._keep_going()
            except Exception as error:  # noqa: BLE001 (without its keeper a client would wait in silence for ever)
                with self._shared.lock:
                    self._engine.fail_all(ServiceUnavailable(f"the connection failed: {error!r}"))
                    self._engine.lost()
                self._shared.resolve()
                time.sleep(FIRST_PAUSE_S)

    def _keep_going(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._shared.closed:
            if self._engine.connection is None:
                pause_s = self._redial(pause_s)
                continue
            pause_s = FIRST_PAUSE_S
            since_s = time.monotonic() - self._shared.last_read
            away_s = (AWAY_WAITED_S if self._engine.waiting else AWAY_IDLE_S) - since_s
            # Never in line for the role: it would be handed over at each pause of a caller that reads in a loop.
            # Nor before a caller that has asked for it and was not woken yet, which takes long on a busy machine.
            if self._shared.role.locked() or self._shared.asking.locked():
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
            for descriptor, _ in known.poller.poll(None if rests else LOOK_S * 1000):
                if descriptor == self._shared.wake_read:
                    self._shared.hear_nudges()
                    return
                self._shared.woken(known, descriptor)
            self._shared.look_at_deadlines()

    def _redial(self, pause_s: float) -> float:
        """One try to connect; returns the pause before the next."""
        self._shared.wanted.clear()  # before the try: what is wanted during it must not be slept over
        if self._shared.closed:
            return pause_s
        refused, self._engine.refused = self._engine.refused, None
        try:
            if isinstance(refused, ProtocolError):
                raise refused  # sent again, it would be refused again
            self._dial()
        except HpcserveError as error:
            with self._shared.lock:
                if not error.retryable:
                    self._engine.fail_all(error)
                self._engine.expire()
            self._shared.resolve()
            if not self._engine.waiting:
                self._shared.wanted.wait()
            else:
                time.sleep(pause_s)
            return min(2 * pause_s, LONGEST_PAUSE_S)
        return FIRST_PAUSE_S

    def _dial(self) -> None:
        told: list[tuple[int, tuple[Counter, ...]]] = []

        def waits_for() -> tuple[int, tuple[Counter, ...]]:
            with self._shared.lock:
                told.append(self._engine.waits_for())
            return told[-1]

        connection = dial(self._context, self._service, self._keys, nonce=self._engine.nonce, waits_for=waits_for)
        with self._shared.lock:
            self._engine.connected(connection, told[-1])
            self._engine.drain()
        self._shared.resolve()
