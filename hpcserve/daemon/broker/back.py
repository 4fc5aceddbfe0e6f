"""The pilots' side of the broker: replicas and agents.

A replica's messages become events of the exchange. An agent's are the controller's business and passed on
unread, but for the fact that it is connected.

Which connections have ended, libzmq's monitor says, by the number of a descriptor that may have been another
connection's: so a connection is doubted, and asked by a message that means nothing whether it stands.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
import zmq

from hpcserve.core.absences import AGENT
from hpcserve.core.exchange import Exchange
from hpcserve.core.ledger import NEVER
from hpcserve.core.replicas import Replica
from hpcserve.daemon.broker.keyring import Keyring
from hpcserve.daemon.broker.shortages import Shortages
from hpcserve.daemon.broker.sockets import Incoming, Tensor, receive, send, user_of
from hpcserve.daemon.broker.staging import Places
from hpcserve.errors import AuthenticationError, Cancelled, DeadlineExceeded, HpcserveError, ProtocolError
from hpcserve.types import Epoch, ReplicaId
from hpcserve.wire import messages as wire
from hpcserve.wire.agents import FromPilot, Report
from hpcserve.wire.frames import agree, decode_from_pilot, encode, error_to_wire
from hpcserve.wire.hub import AgentSays, ResultStaged
from hpcserve.wire.monitor import decode_event

LOOK_S, LOOKS = 0.1, 10
"""A connection that is doubted is asked so often, so many times; libzmq lets go of one that has ended within these."""
NOTHING = encode(wire.Release(()))


class Answered(msgspec.Struct, gc=False):
    """A result, or items, on their way: they go to the client as they came."""

    header: bytes
    tensors: list[Tensor]


class Back:
    """Reads the pilots' socket."""

    def __init__(
        self, socket: zmq.Socket[bytes], exchange: Exchange, keyring: Keyring, epoch: Epoch, places: Places
    ) -> None:
        self.socket = socket
        self._places = places
        self.monitor = socket.get_monitor_socket(int(zmq.Event.DISCONNECTED))
        self.look_at = NEVER
        self.news: list[AgentSays | ResultStaged] = []
        self._exchange = exchange
        self._keyring = keyring
        self._epoch = epoch
        self._agents: dict[str, bytes] = {}
        self._by_descriptor: dict[int, bytes] = {}
        self._doubted: dict[bytes, int] = {}
        self._unlisted: dict[ReplicaId, bytes] = {}
        self.learned: dict[ReplicaId, tuple[wire.BatchesRun, ...]] = {}
        self.devices: dict[ReplicaId, tuple[wire.DeviceUse, ...]] = {}
        self._tunes: dict[ReplicaId, wire.Tune] = {}
        self._tuned: dict[ReplicaId, tuple[bytes, wire.Tune]] = {}
        self._shortages = Shortages()

    def handle(self) -> bool:
        """Takes one message; False when there is none."""
        message = receive(self.socket)
        if message is None:
            return False
        try:
            if message.too_many:
                raise ProtocolError("more tensor frames than a message may have")
            header_bytes = message.header.bytes
            header = decode_from_pilot(header_bytes)
            replica = self._exchange.replica_of(message.sender)
            if replica is not None:
                self._replica(replica, message, header, header_bytes)
            else:
                self._newcomer(message, header, header_bytes)
        except HpcserveError as error:
            send(self.socket, message.sender, encode(wire.Refused(error_to_wire(error))))
        return True

    def _replica(self, replica: Replica, message: Incoming, header: FromPilot, header_bytes: bytes) -> None:
        now = time.monotonic()
        if type(header) is wire.Result:
            key, credit = (header.session, header.id), (header.credit_requests, header.credit_bytes)
            code = None if header.error is None else header.error.code
            if code == Cancelled.code:
                self._exchange.dropped(replica, key, credit=credit, now=now)
                return
            if header.staged is not None:
                news = self._places.news(header, self._exchange.sessions)
                self.news += () if news is None else (news,)
            self._exchange.answered(
                replica,
                key,
                body=Answered(header_bytes, message.tensors),
                size_bytes=message.size_bytes,
                credit=credit,
                now=now,
                late=code == DeadlineExceeded.code,
            )
        elif type(header) is wire.Items:
            self._exchange.items(
                replica,
                (header.session, header.id),
                first=header.first,
                count=header.count,
                body=Answered(header_bytes, message.tensors),
                size_bytes=message.size_bytes,
                now=now,
            )
        elif type(header) is wire.Credit:
            self._exchange.credit(replica, (header.credit_requests, header.credit_bytes), now)
        elif type(header) is wire.Inventory:
            self._inventory(replica.id, message.sender, header)
        elif type(header) is wire.Runs:
            self._exchange.runs(replica, header.keys)
        elif type(header) is wire.Learned:
            self.learned[replica.id] = header.kinds
        elif type(header) is wire.OutOfMemory:
            self._shortages.note(replica.lane.name, header.fits)
        elif type(header) is wire.Devices:
            self.devices[replica.id] = header.devices

    def _newcomer(self, message: Incoming, header: FromPilot, header_bytes: bytes) -> None:
        """The first message of a connection, or an agent's."""
        peer = self._keyring.peer(user_of(message.header))
        if peer is None:
            raise _not_admitted()
        self._note_descriptor(message)
        if type(header) is Report and peer.role == "agent" and header.pilot == peer.subject:
            self._agents[peer.subject] = message.sender
            self._exchange.absences.over(AGENT, peer.subject)
            self.news.append(AgentSays(peer.subject, header_bytes))
        elif type(header) is wire.Inventory and peer.role == "replica":
            agree((header.version,), f"replica {peer.subject}", "the daemon")
            self._inventory(ReplicaId(peer.subject), message.sender, header)
        else:
            send(self.socket, message.sender, encode(wire.WhoAreYou()))

    def _inventory(self, id: ReplicaId, connection: bytes, header: wire.Inventory) -> None:
        listed = self._exchange.inventory(
            id,
            connection,
            unfinished=header.unfinished,
            finished=header.finished,
            fence=header.fence if header.epoch == self._epoch else 0,
            credit=(header.credit_requests, header.credit_bytes),
            now=time.monotonic(),
            remaining_ms=header.remaining_ms,
            yielded=header.yielded,
        )
        if not listed:
            self._unlisted[id] = connection
        self._tune(id)

    def to_agent(self, pilot: str, body: bytes) -> None:
        """Orders for an agent. One that is away will report when it is back, and be told again."""
        connection = self._agents.get(pilot)
        if connection is not None and not send(self.socket, connection, body):
            del self._agents[pilot]
            self._exchange.absences.gone(AGENT, pilot, time.monotonic())

    def expect_agent(self, pilot: str) -> None:
        """The controller has let an agent in."""
        if pilot not in self._agents:
            self._exchange.absences.expected(pilot, time.monotonic())

    def tune(self, tunes: dict[ReplicaId, wire.Tune]) -> None:
        """What every replica's deployment wants of batches; those that were told something else hear of it."""
        self._tunes = tunes
        self._tuned = {id: told for id, told in self._tuned.items() if id in tunes}
        self.learned = {id: learned for id, learned in self.learned.items() if id in tunes}
        self.devices = {id: devices for id, devices in self.devices.items() if id in tunes}
        for id in tunes:
            self._tune(id)

    def _tune(self, id: ReplicaId) -> None:
        replica, tune = self._exchange.replicas.get(id), self._tunes.get(id)
        if replica is None or replica.connection is None or tune is None:
            return
        tune = self._shortages.told_with(tune, replica.lane.name)
        told = replica.connection, tune
        if self._tuned.get(id) != told:
            self._tuned[id] = told
            self.send(replica.connection, encode(tune))

    def forget(self, subject: str) -> None:
        """The key of an agent or a replica was revoked: nothing is for it any more.

        An agent that has nothing to say would not learn of it by itself.
        """
        connection = self._agents.pop(subject, None)
        if connection is not None:
            send(self.socket, connection, encode(wire.Refused(error_to_wire(_not_admitted()))))
        self._exchange.absences.over(AGENT, subject)
        self._unlisted.pop(ReplicaId(subject), None)

    def send(self, connection: bytes, header: bytes, tensors: list[Tensor] | tuple[()] = ()) -> None:
        """A message for a replica; when its connection is gone, the exchange is told."""
        if not send(self.socket, connection, header, tensors):
            self._exchange.replica_gone(connection, time.monotonic())

    # --- which connections stand ----------------------------------------------------------------------

    def _note_descriptor(self, message: Incoming) -> None:
        descriptor = int(message.header.get(zmq.SRCFD))
        before = self._by_descriptor.get(descriptor)
        self._by_descriptor[descriptor] = message.sender
        if before is not None and before != message.sender:
            self._doubt(before)

    def hear_of_ends(self) -> None:
        """Reads the monitor: connections have ended."""
        while self.monitor.poll(0):
            descriptor = decode_event(self.monitor.recv_multipart()).value
            connection = self._by_descriptor.get(descriptor)
            if connection is not None:
                self._doubt(connection)

    def _doubt(self, connection: bytes) -> None:
        self._doubted[connection] = LOOKS
        self.look_at = min(self.look_at, time.monotonic() + LOOK_S)

    def look(self, now: float) -> None:
        """Asks the connections that are doubted."""
        doubted = {connection: looks - 1 for connection, looks in self._doubted.items() if self._stands(connection)}
        self._doubted = {connection: looks for connection, looks in doubted.items() if looks}
        self.look_at = now + LOOK_S if self._doubted else NEVER

    def _stands(self, connection: bytes) -> bool:
        """False, too, if it is nobody's."""
        if self._exchange.replica_of(connection) is not None:
            self.send(connection, NOTHING)
            return self._exchange.replica_of(connection) is not None
        pilot = next((pilot for pilot, each in self._agents.items() if each == connection), None)
        if pilot is None:
            return False
        self.to_agent(pilot, encode(wire.WhoAreYou()))
        return pilot in self._agents

    # --- the roster -------------------------------------------------------------------------------------

    def roster_changed(self, before: Mapping[ReplicaId, bytes]) -> None:
        """Asks the replicas that came before the controller had named them, and those that it names no longer.

        One of the latter may be there yet, and be named again when its agent is heard of late. Its answer
        keeps its connection for that time.

        Args:
            before: The connections of the roster as it was.
        """
        for id in before.keys() - self._exchange.replicas.keys():
            send(self.socket, before[id], encode(wire.WhoAreYou()))
        for id in [id for id in self._unlisted if id in self._exchange.replicas]:
            send(self.socket, self._unlisted.pop(id), encode(wire.WhoAreYou()))

    def who_are_you(self) -> None:
        """Asks every agent for its report: the controller is new."""
        for pilot in list(self._agents):
            self.to_agent(pilot, encode(wire.WhoAreYou()))


def _not_admitted() -> AuthenticationError:
    return AuthenticationError("this key is not admitted any more")
