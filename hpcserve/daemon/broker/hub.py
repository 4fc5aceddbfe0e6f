"""The daemon's own side of the broker: the controller and admission, over ``ipc://``.

Carries out what they say and relays between them. What it relays, it does not read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import zmq

from hpcserve.core.exchange import Exchange
from hpcserve.core.ledger import NEVER
from hpcserve.core.routes import Deployment
from hpcserve.daemon.access import deployment_of
from hpcserve.daemon.broker.back import Back
from hpcserve.daemon.broker.decisions import Decisions
from hpcserve.daemon.broker.front import Front
from hpcserve.daemon.broker.keyring import Keyring
from hpcserve.daemon.broker.sockets import receive, send
from hpcserve.errors import AuthenticationError, HpcserveError, Overloaded, ProtocolError, ServiceUnavailable
from hpcserve.types import Epoch
from hpcserve.wire import hub
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import decoder, encode, error_from_wire, error_to_wire

_log = logging.getLogger(__name__)

CONTROLLER, ADMISSION = b"controller", b"admission"
MOST_CALLS = 256  # without an answer; further ones push out the oldest
MOST_OF_ONE = 32  # of one client: half of what the controller carries out at a time


class Hub:
    """Reads the daemon's internal socket. ``used``: it was read or written, and whoever watches it has to know."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        exchange: Exchange,
        keyring: Keyring,
        epoch: Epoch,
        *,
        front: Front,
        back: Back,
    ) -> None:
        self.socket = socket
        self.used = False
        self._exchange = exchange
        self._keyring = keyring
        self._epoch = epoch
        self._front = front
        self._back = back
        self._began = time.monotonic()
        self._for_admission: dict[type, wire.Message] = {}
        self._calls: dict[tuple[bytes, int], tuple[hub.ClientCalls, bool]] = {}
        self._decisions = Decisions(lambda message: self.tell(CONTROLLER, message))
        self._decode = decoder(hub.ToBroker)
        self._do: dict[type, Callable[[bytes, Any], object]] = {
            hub.AdmitKey: self._admit,
            hub.RevokeKey: self._revoke,
            hub.Routes: self._routes,
            hub.ToAgentRelay: lambda sender, message: self._back.to_agent(message.pilot, message.body),
            hub.ToClientRelay: self._answer,
            hub.AskStats: self._stats,
            hub.EnrolAsk: lambda sender, message: self.tell(CONTROLLER, message),
            hub.EnrolVerdict: lambda sender, message: self.tell(ADMISSION, message),
            hub.PilotSecrets: self._keep,
            hub.GroupsCount: self._groups_count,
            hub.AskToken: lambda sender, message: self.tell(ADMISSION, message),
            hub.TokenIs: lambda sender, message: self.tell(CONTROLLER, message),
            hub.DecisionsNoted: lambda sender, message: self._decisions.noted(message.number),
        }

    def handle(self) -> bool:
        """Takes one message; False when there is none."""
        self.used = True
        message = receive(self.socket)
        if message is None:
            return False
        if not len(message.header):  # ZMQ_PROBE_ROUTER's empty message: a new connection
            send(self.socket, message.sender, encode(hub.BrokerUp(self._epoch)))
            if message.sender == CONTROLLER:
                self._back.who_are_you()
                self._hand_over()
                self._decisions.send_again()
            elif message.sender == ADMISSION:
                for kept in self._for_admission.values():
                    self.tell(ADMISSION, kept)
            return True
        try:
            header = self._decode(message.header.bytes)
        except ProtocolError as error:
            _log.error("%s sent what cannot be read: %s", message.sender.decode(errors="replace"), error)
            return True
        self._do[type(header)](message.sender, header)
        return True

    def _hand_over(self) -> None:
        """The calls of a controller that died go to the next, once: one of them may have been its death."""
        for key, (call, handed_over) in list(self._calls.items()):
            if handed_over:
                self._give_up(key)
            else:
                self._calls[key] = (call, True)
                self.tell(CONTROLLER, call)

    def _give_up(self, key: tuple[bytes, int]) -> None:
        call, _ = self._calls.pop(key)
        error = ServiceUnavailable("the daemon's controller does not answer; see: hpcserve logs controller")
        send(self._front.socket, call.connection, encode(wire.Answer(call.id, error_to_wire(error))))

    def tell(self, whom: bytes, message: wire.Message) -> bool:
        """Sends a message to one of the daemon's processes; False when it is not connected."""
        self.used = True
        return send(self.socket, whom, encode(message))

    def pass_on(self) -> None:
        """What clients called and pilots said goes to the controller."""
        if self._back.news:
            news, self._back.news = self._back.news, []
            for each in news:
                self.tell(CONTROLLER, each)
        if self._front.calls:
            calls, self._front.calls = self._front.calls, []
            for connection, asker, call in calls:
                self._call(connection, asker, call)
        if self._exchange.gate.news:
            self._decisions.add(self._exchange.gate.take())
            self._decisions.send()

    def _call(self, connection: bytes, asker: hub.Asker, call: wire.Call) -> None:
        """A call is kept until it is answered: a controller that dies leaves it to the next (each may run twice)."""
        if sum(each == connection for each, _ in self._calls) >= MOST_OF_ONE:
            error = Overloaded(f"this client waits for {MOST_OF_ONE} calls already, the most of one", retry_after_s=1.0)
            send(self._front.socket, connection, encode(wire.Answer(call.id, error_to_wire(error))))
            return
        if len(self._calls) >= MOST_CALLS:
            self._give_up(next(iter(self._calls)))
        relayed = hub.ClientCalls(connection, asker.identity.name, call.id, call.verb, call.body, asker)
        self._calls[connection, call.id] = (relayed, False)
        self.tell(CONTROLLER, relayed)

    def _admit(self, sender: bytes, message: hub.AdmitKey) -> None:
        peer = self._keyring.admit(message, time.monotonic())
        if message.role == "client":
            self._front.identity_changed(peer)
        elif message.role == "agent":
            self._back.expect_agent(message.subject)
        self.tell(sender, hub.Done(message.ticket))

    def put_out(self, now: float) -> None:
        """Takes out the keys whose time is over: admission, which would have said so, or renewed them, is gone."""
        for key in self._keyring.over(now):
            self._out(key, ServiceUnavailable("your login could not be renewed; say HELLO again", retry_after_s=1.0))

    def _revoke(self, sender: bytes, message: hub.RevokeKey) -> None:
        gone = AuthenticationError("this key is not admitted any more")
        self._out(message.key, gone if message.error is None else error_from_wire(message.error))

    def _out(self, key: bytes, error: HpcserveError) -> None:
        peer = self._keyring.revoke(key)
        if peer is not None and peer.role != "client":
            self._back.forget(peer.subject)
        self._front.end_sessions(key, error)

    def _routes(self, sender: bytes, message: hub.Routes) -> None:
        deployments = [
            Deployment(
                each.name,
                {name: method.idempotent for name, method in each.methods.items()},
                each.default_method,
                each.replicas,
                None if each.error is None else error_from_wire(each.error),
                NEVER if each.max_queue_bytes is None else each.max_queue_bytes,
                NEVER if each.max_queue_s is None else each.max_queue_s,
                each.tune.kill_cancelled_s,
                deployment_of(each.access),
            )
            for each in message.deployments
        ]
        replicas = self._exchange.replicas.values()
        before = {each.id: each.connection for each in replicas if each.connection is not None}
        self._exchange.route(
            message.endpoints,
            deployments,
            crashed=message.crashed,
            retiring=frozenset(message.retiring),
            giving_back=frozenset(message.giving_back),
            ends_at=message.ends_at,
            now=time.monotonic(),
        )
        self._back.roster_changed(before)
        self._back.tune({id: each.tune for each in message.deployments for id in each.replicas})

    def _groups_count(self, sender: bytes, message: hub.GroupsCount) -> None:
        self._exchange.gate.groups_count = message.count
        self._keep(sender, message)

    def _keep(self, sender: bytes, message: wire.Message) -> None:
        """What the controller says to admission, which may not be there, or be another one soon."""
        self._for_admission[type(message)] = message
        self.tell(ADMISSION, message)

    def _answer(self, sender: bytes, message: hub.ToClientRelay) -> None:
        self._calls.pop((message.connection, message.id), None)
        send(self._front.socket, message.connection, encode(wire.Answer(message.id, message.error, message.body)))

    def _stats(self, sender: bytes, message: hub.AskStats) -> None:
        exchange = self._exchange
        counts = exchange.counts
        self.tell(
            sender,
            hub.Stats(
                message.ticket,
                self._epoch,
                time.monotonic() - self._began,
                sum(each.connection is not None for each in exchange.sessions.values()),
                counts.requests,
                counts.answered,
                counts.failed,
                counts.refused,
                counts.requeued,
                exchange.held_bytes,
                not exchange.recovered,
                tuple(
                    hub.ReplicaLoad(
                        each.id,
                        each.waiting,
                        each.answered,
                        each.connection is not None,
                        self._back.learned.get(each.id, ()),
                        self._back.devices.get(each.id, ()),
                    )
                    for each in exchange.replicas.values()
                ),
                tuple(
                    hub.DeploymentLoad(
                        name,
                        lane.queue.count,
                        lane.queue.bytes,
                        lane.refused,
                        lane.expired,
                        lane.wait_s,
                        lane.answered,
                        lane.longest.s or None,
                        lane.came,
                        lane.pace.service_s,
                    )
                    for name, lane in exchange.lanes.items()
                ),
            ),
        )
