"""The broker's one thread: sockets in, the exchange decides, sockets out.

No asyncio, SQL, HTTPS or subprocess here: whatever takes time belongs to the controller (design §3).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import zmq

from hpcserve.auth.keys import KeyPair
from hpcserve.auth.zap import ZapHandler
from hpcserve.core import actions as act
from hpcserve.core.access import OPEN, Policy
from hpcserve.core.exchange import MAX_UNSETTLED, Exchange, Limits
from hpcserve.daemon.broker.back import Answered, Back
from hpcserve.daemon.broker.front import MOST_SESSIONS, Body, Front
from hpcserve.daemon.broker.hub import CONTROLLER, Hub
from hpcserve.daemon.broker.keyring import BACK, FRONT, Keyring
from hpcserve.daemon.broker.sockets import BACK_HEARTBEAT, router, send
from hpcserve.daemon.broker.staging import Places
from hpcserve.daemon.broker.watch import Watch
from hpcserve.types import Epoch
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import MAX_HEADER_BYTES, MAX_OWN_HEADER_BYTES, encode, error_to_wire
from hpcserve.wire.hub import Away, Lacking, ReplicaHung, ReplicaIdle, ReplicaUnwanted

DRAIN = 64  # most messages taken from one socket before the others are looked at
FLUSH_S = 0.02  # releases wait so long for work that carries them along
BUSY_TICK_S, IDLE_TICK_S = 0.1, 1.0
MOST_UNREAD = 2 * MAX_UNSETTLED  # more than any client's results can be: only refusals have no end
PUT_OUT_S = 1.0  # how often it is looked for keys whose time is over
PROBE_S = 30.0  # and within half a session's linger


class Broker:
    """The sockets and what is done with the exchange's actions."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: KeyPair,
        limits: Limits,
        epoch: Epoch,
        *,
        outbox_bytes: int,
        places: Places,
        most_sessions: int = MOST_SESSIONS,
        policy: Policy = OPEN,
    ) -> None:
        now = time.monotonic()
        self._exchange = Exchange(limits, now, policy)
        self._epoch = epoch
        keyring = Keyring()
        self.zap = ZapHandler(context, lambda key, address, domain: keyring.decide(key, domain))
        from_clients = max(limits.session_bytes, MAX_HEADER_BYTES)
        from_pilots = max(outbox_bytes, MAX_OWN_HEADER_BYTES)
        front = router(context, keys, FRONT.encode(), largest_bytes=from_clients, most_unread=MOST_UNREAD)
        back = router(context, keys, BACK.encode(), heartbeat=BACK_HEARTBEAT, largest_bytes=from_pilots)
        self.front = Front(front, self._exchange, keyring, epoch, places, most_sessions=most_sessions)
        self.back = Back(back, self._exchange, keyring, epoch, places)
        self.hub = Hub(router(context, None, b""), self._exchange, keyring, epoch, front=self.front, back=self.back)
        self._flush_at = float("inf")
        self._tick_at = now
        self._put_out_at = now
        self._probe_s = min(PROBE_S, limits.session_linger_s / 2)
        self._probe_at = now + self._probe_s
        self._do: dict[type, Callable[[Any], object]] = {
            act.Give: self._give,
            act.Forward: self._forward,
            act.Tell: self._tell,
            act.Ask: lambda a: self._to_client(a.connection, wire.SendAgain(a.ids)),
            act.Fetch: lambda a: self.back.send(a.connection, encode(wire.Fetch(a.keys))),
            act.More: lambda a: self.back.send(
                a.connection, encode(wire.MoreFor(a.key[0], a.key[1], a.received, a.again))
            ),
            act.Release: lambda a: self.back.send(a.connection, encode(wire.Release(a.keys))),
            act.GiveBack: lambda a: self.back.send(a.connection, encode(wire.GiveBack(epoch, a.most))),
            act.Census: lambda a: self.back.send(a.connection, encode(wire.Census(epoch, a.fence))),
            act.Probe: lambda a: self._to_client(a.connection, wire.Ping()),
            act.ReportHung: lambda a: self.hub.tell(CONTROLLER, ReplicaHung(a.replica, a.overdue_s)),
            act.ReportUnwanted: lambda a: self.hub.tell(CONTROLLER, ReplicaUnwanted(a.replica, a.for_s)),
            act.ReportAway: lambda a: self.hub.tell(CONTROLLER, Away(a.subject, a.role, a.for_s)),
            act.ReportLacking: lambda a: self.hub.tell(CONTROLLER, Lacking(a.deployment)),
            act.ReportIdle: lambda a: self.hub.tell(CONTROLLER, ReplicaIdle(a.replica)),
        }

    def run(self, parent_is_gone: Callable[[], bool], parent_fd: int) -> None:
        """Serves until the parent process is gone."""
        handlers = {
            self.back.socket: self.back.handle,
            self.front.socket: self.front.handle,
            self.hub.socket: self.hub.handle,
        }
        others = self.hub.socket, self.zap.socket, self.back.monitor
        watch = Watch((self.back.socket, self.front.socket), others, parent_fd)
        # A socket that is read empty costs an exception. So one message is taken where they come singly, and twice as
        # many each time while there are more.
        drains = dict.fromkeys(handlers, 1)
        while True:
            for source, more in watch.wait(self._timeout_s()):
                if source in handlers:
                    most = min(2 * drains[source], DRAIN) if more else 1
                    drains[source] = self._drain(handlers[source], most)
                elif source is self.zap.socket:
                    self.zap.handle()
                    watch.used()
                elif source is self.back.monitor:
                    self.back.hear_of_ends()
                    watch.used()
                elif parent_is_gone():
                    return
            self._pass_time()
            if self.hub.used:
                self.hub.used = False
                watch.used()

    def _drain(self, handle: Callable[[], bool], most: int) -> int:
        """Takes up to ``most`` messages; returns how many there were, and at least 1."""
        for taken in range(most):
            if not handle():
                return max(1, taken)
            self._act()
        return most

    def _timeout_s(self) -> float:
        return max(
            0.0,
            min(self._tick_at, self._flush_at, self._probe_at, self._put_out_at, self.back.look_at) - time.monotonic(),
        )

    def _pass_time(self) -> None:
        now = time.monotonic()
        if self._exchange.releases_wait:
            self._flush_at = min(self._flush_at, now + FLUSH_S)
        if now >= self._flush_at:
            self._flush_at = float("inf")
            self._exchange.flush()
        if now >= self._tick_at:
            limit = BUSY_TICK_S if self._exchange.queued else IDLE_TICK_S
            self._tick_at = min(self._exchange.tick(now), now + limit)
        elif self._exchange.queued:
            self._tick_at = min(self._tick_at, now + BUSY_TICK_S)
        if now >= self._put_out_at:
            self._put_out_at = now + PUT_OUT_S
            self.hub.put_out(now)
        if now >= self._probe_at:
            self._probe_at = now + self._probe_s
            self._exchange.probe()
        if now >= self.back.look_at:
            self.back.look(now)
        self._act()
        self.hub.pass_on()

    def _act(self) -> None:
        actions = self._exchange.take()
        while actions:
            for action in actions:
                self._do[type(action)](action)
            actions = self._exchange.take()

    def _give(self, action: act.Give) -> None:
        entry = action.entry
        body = entry.body
        assert isinstance(body, Body), "the front put a Body into every request"
        request, places = body.request, self.front.places
        header = wire.Work(
            self._epoch,
            action.seq,
            entry.session.id,
            entry.id,
            request.method,
            request.tensors,
            request.parameters,
            action.remaining_ms,
            request.priority,
            entry.attempt,
            request.trace,
            request.reply,
            action.releases,
            request.enclosed,
            request.window,
            places.own(entry.session) if request.reply != "inline" and request.window is None else "",
            places.readable(entry.session) if body.references else (),
            body.references,
        )
        self.back.send(action.connection, encode(header), body.tensors)

    def _forward(self, action: act.Forward) -> None:
        result = action.body
        assert isinstance(result, Answered), "the back put an Answered into every result"
        if not send(self.front.socket, action.connection, result.header, result.tensors):
            self._exchange.client_gone(action.connection, time.monotonic())

    def _tell(self, action: act.Tell) -> None:
        self._to_client(action.connection, wire.Result(action.session, action.id, error=error_to_wire(action.error)))

    def _to_client(self, connection: bytes, message: wire.ToClient) -> None:
        if not send(self.front.socket, connection, encode(message)):
            self._exchange.client_gone(connection, time.monotonic())
