"""The replica's one loop: drain the socket, run the next batch, send its results (design §3).

There is no second Python thread: libzmq keeps the connection alive during a long call. Decides when the socket is
looked at, and how long nothing is done; what comes from it, :mod:`hpcserve.replica.intake` takes, and what is run,
:mod:`hpcserve.replica.running`.
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable

from hpcserve.core.ledger import NEVER
from hpcserve.replica.alarm import IDLE_MS, Alarm
from hpcserve.replica.gauge import Gauge
from hpcserve.replica.link import Link
from hpcserve.replica.running import LOOK_EVERY_S, Running
from hpcserve.replica.start import Lifeline

TELL_EVERY_S = 1.0
POLL_S = 0.001
UNCONNECTED_S = 2.0
"""A replica that has had no connection for so long since its setup is ready all the same: the daemon may be away."""


class Replica:
    """One running copy of a deployment, seen from its rank 0. It ends when its ranks can compute nothing more.

    Args:
        link: Its connection.
        running: Its requests.
        lifeline: Cut when its agent is gone.
        alarm: Taken off while nothing runs.
        gauge: How its devices are used.
        ready: Called once, when the broker can give it work: whoever it takes over from gets none from then on.
    """

    def __init__(
        self,
        link: Link,
        running: Running,
        lifeline: Lifeline,
        alarm: Alarm,
        gauge: Gauge,
        *,
        ready: Callable[[], None],
    ) -> None:
        self._ready = ready
        self._ready_at = time.monotonic() + UNCONNECTED_S
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe()
        self._poller = select.poll()
        self._polled: object = self
        self._socket_fd = self._monitor_fd = -1
        self._tell_at = 0.0
        self._link = link
        self._lifeline = lifeline
        self._alarm = alarm
        self._gauge = gauge
        self._running = running
        # What is asked for at each turn is looked up once.
        self._streams, self._flights, self._says = running.streams, running.flights, running.says
        self._drain = running.intake.drain
        self._why_broken = running.why_broken

    def stop(self) -> None:
        """Ends :meth:`run` after the request that runs now. May be called from a signal handler, and by any thread."""
        self._stopping = True
        os.write(self._wake_write, b"s")

    def run(self) -> None:
        """Serves until the agent is gone or asks to stop; what runs then is finished first, but for streams."""
        self._serve()
        self._flights.land_all()
        self._streams.close()

    def _serve(self) -> None:
        look_at = 0.0
        streams, flights = self._streams, self._flights
        may_run, run_next = self._running.may_run, self._running.run_next
        while not self._stopping:
            if flights.count:
                flights.land_done()
            ready = may_run()
            if not (ready or streams.ready) or time.monotonic() >= look_at:
                if not self._look(wait=not (ready or streams.ready)):
                    return
                if self._is_broken():  # by the end of a stream
                    return
                look_at = time.monotonic() + LOOK_EVERY_S
                ready = may_run()  # what has just come may be more urgent
            if ready:
                run_next()
                if self._is_broken():
                    return  # what is left is run elsewhere: nobody is told another's error
            if streams.ready:
                flights.land_all()
                streams.go_on()
            if self._is_broken():
                return

    def _is_broken(self) -> bool:
        return self._why_broken() is not None

    # --- the socket -----------------------------------------------------------------------------------

    def _look(self, *, wait: bool) -> bool:
        """Takes what has arrived, waiting for it if there is nothing to do. False: the agent is gone."""
        link = self._link
        link.connect()
        now = time.monotonic()
        if now >= self._gauge.due_at:
            self._says.devices(self._gauge.read())
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_S
            self._says.learned(self._running.sizes)
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
            self._running.inventory()
            if self._ready_at < math.inf:
                self._ready_at = now
        if now >= self._ready_at:
            self._ready_at = math.inf
            self._ready()
        if self._streams.look_at < math.inf:
            self._streams.look()
        return True

    def _wait(self) -> list[tuple[int, int]]:
        """Sleeps until there is something to do; the alarm is not taken off for every short pause."""
        if self._flights.count:
            return self._nap()
        timeout_ms = self._link.timeout_ms()
        until = self._tell_at if self._says.has_news else math.inf
        if self._running.inbox.count and not self._running.holdings.is_full:
            until = min(until, self._running.company_until)
        until = min(until, self._streams.look_at, self._ready_at, self._gauge.due_at)
        if until < math.inf:
            left_ms = max(0, math.ceil((until - time.monotonic()) * 1000))
            timeout_ms = left_ms if timeout_ms is None else min(timeout_ms, left_ms)
        if self._alarm.set_for != NEVER:
            timeout_ms = IDLE_MS if timeout_ms is None else min(timeout_ms, IDLE_MS)
        ready = self._poller.poll(timeout_ms)
        if not ready:
            self._alarm.rest()
        return ready

    def _nap(self) -> list[tuple[int, int]]:
        """Sleeps for a moment, or until a message comes: something is in flight. The alarm stays on."""
        self._running.gave_up()  # the servable's own threads may ask
        pause_s = self._flights.pause_s(time.monotonic())
        if pause_s >= POLL_S:
            return self._poller.poll(POLL_S * 1000)
        time.sleep(pause_s)  # poll(2) counts in milliseconds
        return self._poller.poll(0)

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
