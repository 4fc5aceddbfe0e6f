"""An agent's connection to the daemon: enrolled, then kept, by a new socket whenever one is lost.

What is said over it is decided in :mod:`hpcserve.pilot.agent`. libzmq's own reconnecting is off: a daemon
that comes back may have moved, so the service record is read again before each attempt. Liveness is
libzmq's own heartbeats and the socket monitor; nothing is inferred from silence. Where no connection comes about, the
log says why within seconds.

A daemon that stands still is connected to all the same, for its host's kernel accepts, and another one may take over
meanwhile: so the handshake has little time.
"""

from __future__ import annotations

import logging
import math
import random
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import zmq

import hpcserve
from hpcserve.cluster.reach import Obstacle
from hpcserve.errors import HpcserveError, ProtocolError
from hpcserve.pilot.knock import Knock
from hpcserve.pilot.watch import Watch
from hpcserve.types import PilotId
from hpcserve.wire import frames
from hpcserve.wire.agents import Orders, Report
from hpcserve.wire.launch import Enrolment
from hpcserve.wire.messages import WIRE_VERSIONS, Enrol, Enrolled, Refused
from hpcserve.wire.monitor import decode_event
from hpcserve.wire.record import ServiceRecord, decode_record

_log = logging.getLogger(__name__)

HANDSHAKE_S = 4.0
"""How long a connection and its handshake may take: with a pause, far less than the daemon waits for its agents."""
ENROL_S = 15.0
"""How long the answer to ENROL may take, for which the batch scheduler is asked."""
FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0
KNOCK_AFTER_S = 1.0
"""An attempt that has no connection by then is looked into."""
KNOCK_EVERY_S = 10.0
SAY_AGAIN_S = 300.0
MOST_DENIALS = 5
"""When its key was denied so often in a row, an agent asks admission whether it is still let in."""
HEARTBEAT_IVL_MS = 3_000
HEARTBEAT_TIMEOUT_MS = 4_500
MAX_MESSAGE_BYTES = 64 << 20

_LOST = {
    zmq.EVENT_DISCONNECTED: "the daemon is gone",
    zmq.EVENT_CLOSED: "it cannot be reached",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the handshake failed: it is not our daemon",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the daemon does not let this agent's key in",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Whom the link tells.

    Attributes:
        up: The connection stands; the daemon knows nothing of us yet.
        asked: The broker wants a report.
        orders: Orders came.
    """

    up: Callable[[], None]
    asked: Callable[[], None]
    orders: Callable[[Orders], None]


class Link:
    """The agent's side of the connection.

    Args:
        record: The path of the service record.
        enrolment: What to say at admission.
        enrolled: Called whenever admission has let us in.
        watch: Where the sockets are watched.
        clock: Monotonic seconds.
        dice: For the jitter of retries.
    """

    def __init__(
        self,
        *,
        record: Path,
        enrolment: Enrolment,
        enrolled: Callable[[], None],
        ears: Ears,
        watch: Watch,
        clock: Callable[[], float],
        dice: random.Random,
    ) -> None:
        self._record = record
        self._enrolment = enrolment
        self._on_enrolled = enrolled
        self._ears = ears
        self._watch = watch
        self._clock = clock
        self._dice = dice
        self._context = zmq.Context()
        self._public_key, self._secret_key = zmq.curve_keypair()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._enrolled = False
        self._attempts = 0
        self._denied = 0
        self._due_s = clock()
        self._down_since_s: float | None = clock()
        self._address = self._host = ""
        self._reached = self._shaken = False
        self._knock = Knock(watch, clock, self._tell_obstacle)
        self._knock_s: float | None = None
        self._knocked_s = self._told_s = -math.inf
        self._told = ""
        self.refused: HpcserveError | None = None
        """Why admission will never let this agent in; None as long as it may."""

    @property
    def up(self) -> bool:
        """Whether the broker can be told something."""
        return self._enrolled and self._socket is not None and self._down_since_s is None

    @property
    def due_s(self) -> float | None:
        """When :meth:`tick` has something to do."""
        if self.up or self.refused:
            return None
        return min(due for due in (self._due_s, self._knock_s, self._knock.due_s) if due is not None)

    def down_for_s(self, now: float) -> float:
        """How long there has been no connection."""
        return 0.0 if self._down_since_s is None else now - self._down_since_s

    def tick(self, now: float) -> None:
        """Begins an attempt that is due, or gives one up that takes too long; looks into one that has no connection."""
        self._knock.tick(now)
        if self._knock_s is not None and now >= self._knock_s:
            self._look_into(now)
        if self.due_s is None or now < self._due_s:
            return
        if self._socket is not None:
            self._lost(f"no answer within {ENROL_S if self._shaken else HANDSHAKE_S:g} s")
            return
        try:
            self._connect(decode_record(self._record.read_bytes(), str(self._record)))
            self._due_s = now + HANDSHAKE_S
            self._knock_s = now + KNOCK_AFTER_S
        except FileNotFoundError:
            why = "the daemon is down, or this node does not see the site's shared_dir as the login node does"
            self._lost(f"there is no service record {self._record}: {why}")
        except (OSError, HpcserveError, zmq.ZMQError, ValueError) as error:
            self._lost(str(error))

    def send(self, report: Report) -> bool:
        """Sends a report; False when the connection cannot take it now."""
        if not self.up or self._socket is None:
            return False
        try:
            self._socket.send(frames.encode(report), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def close(self, linger_s: float) -> None:
        """Ends the connection for good; what was sent has ``linger_s`` to leave."""
        self._disconnect(linger_ms=round(linger_s * 1000))
        self._knock.close()
        self._context.term()

    def _connect(self, record: ServiceRecord) -> None:
        addresses = record.back if self._enrolled else record.admission
        address = addresses[self._attempts % len(addresses)]
        self._address, self._host, self._reached = address, record.host, False
        self._shaken = False
        dealer = self._context.socket(zmq.DEALER)
        self._socket = dealer
        dealer.setsockopt(zmq.IPV6, "[" in address)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.setsockopt(zmq.CONNECT_TIMEOUT, round(HANDSHAKE_S * 1000))
        dealer.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_IVL_MS)
        dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        dealer.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
        dealer.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        dealer.curve_publickey = self._public_key
        dealer.curve_secretkey = self._secret_key
        dealer.curve_serverkey = record.public_key.encode()
        monitor = dealer.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _mask(_LOST))
        self._monitor = monitor
        self._watch.add(monitor, self._on_event)
        self._watch.add(dealer, self._on_message)
        dealer.connect(address)
        if not self._enrolled:
            dealer.send(frames.encode(self._enrol()), zmq.DONTWAIT)

    def _enrol(self) -> Enrol:
        return Enrol(
            versions=WIRE_VERSIONS,
            software=f"hpcserve {hpcserve.__version__}",
            pilot=PilotId(self._enrolment.pilot),
            incarnation=self._enrolment.incarnation,
            secret=self._enrolment.secret,
            host=socket.gethostname(),
        )

    def _on_event(self) -> None:
        while self._monitor is not None and self._monitor.poll(0):
            event = zmq.Event(decode_event(self._monitor.recv_multipart()).event)
            if event == zmq.EVENT_CONNECTED:
                self._reached, self._knock_s, self._told = True, None, ""
                self._knock.close()
            elif event in _LOST:
                dealer = self._socket
                self._on_message()  # what came before the end still counts
                if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    self._denied += 1
                    if self._denied >= MOST_DENIALS:  # a new broker had been told of this agent by then
                        self._enrolled = False
                if self._socket is dealer:
                    self._look_into(self._clock())
                    self._lost(_LOST[event])
            elif self._enrolled:
                _log.info("connected")
                self._denied = 0
                self._down_since_s = None
                self._ears.up()
            else:
                self._shaken, self._due_s = True, self._clock() + ENROL_S

    def _on_message(self) -> None:
        while self._socket is not None and self._socket.poll(0):
            parts = self._socket.recv_multipart()
            try:
                self._hear(parts[0])
            except ProtocolError as error:
                _log.warning("the daemon sent something else than orders: %s", error)

    def _hear(self, header: bytes) -> None:
        if not self._enrolled:
            self._hear_admission(frames.decode_from_admission(header))
            return
        message = frames.decode_to_agent(header)
        if isinstance(message, Refused):
            # Our key is not known any more, or not yet again: admission says which, and lets us in or not.
            self._enrolled = False
            self._lost(frames.error_from_wire(message.error).message)
            return
        self._attempts = 0
        if isinstance(message, Orders):
            self._ears.orders(message)
        else:
            self._ears.asked()

    def _hear_admission(self, answer: object) -> None:
        if isinstance(answer, Enrolled):
            _log.info("enrolled with %s", answer.software)
            self._enrolled = True
            self._denied = 0
            self._disconnect(linger_ms=0)
            self._due_s = self._down_since_s = self._clock()
            self._on_enrolled()
        elif isinstance(answer, Refused):
            error = frames.error_from_wire(answer.error)
            if error.retryable:
                self._lost(error.message)
            else:
                self._disconnect(linger_ms=0)
                self.refused = error

    def _lost(self, why: str) -> None:
        now = self._clock()
        if self._down_since_s is None:
            self._down_since_s = now
        pause_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._attempts, 16)) * self._dice.uniform(0.5, 1.0)
        _log.log(logging.INFO if self._attempts else logging.WARNING, "no connection to the daemon: %s", why)
        self._attempts += 1
        self._disconnect(linger_ms=0)
        self._knock_s = None
        self._due_s = now + pause_s

    def _look_into(self, now: float) -> None:
        """Why there is no connection."""
        self._knock_s = None
        if not self._reached and now >= self._knocked_s + KNOCK_EVERY_S:
            self._knocked_s = now
            self._knock.begin(self._address)

    def _tell_obstacle(self, address: str, obstacle: Obstacle) -> None:
        now = self._clock()
        told = f"the daemon on {self._host} at {address}, its address in {self._record}: {obstacle.told}"
        if told != self._told or now >= self._told_s + SAY_AGAIN_S:
            self._told, self._told_s = told, now
            _log.warning("%s does not reach %s; to look closer: hpcserve doctor --pilot", socket.gethostname(), told)

    def _disconnect(self, linger_ms: int) -> None:
        if self._socket is None:
            return
        self._watch.remove(self._socket)
        if self._monitor is not None:
            self._watch.remove(self._monitor)
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._monitor = None
        self._socket.close(linger=linger_ms)
        self._socket = None


def _mask(events: Iterable[zmq.Event]) -> int:
    mask = zmq.Event(0)
    for event in events:
        mask |= event
    return mask
