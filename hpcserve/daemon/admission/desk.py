"""Who is let in: what admission answers to HELLO and ENROL, and what it tells the broker. No sockets here.

A HELLO is answered in two steps: who is it (now the list of authorised keys; a check that takes longer would
hand its result to :meth:`Desk.identified` later), then the broker learns the key, and only when it says so the
client is welcome. An ENROL is the controller's to judge.

What is malformed is refused with a reason, as long as strangers have not used up what they may ask together:
after that a stranger gets no answer at all, while known keys are not affected. Nor are the agents of pilots that
the controller has named: who sends a pilot's secret is charged to that pilot alone, so that those who do not
cannot use up what it may ask, with however many keys. All others who ENROL share an allowance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from secrets import compare_digest
from typing import NamedTuple

import msgspec

from hpcserve.auth.keys import to_z85
from hpcserve.core.ratelimit import Bucket, Buckets
from hpcserve.errors import AuthenticationError, HpcserveError, Overloaded, ProtocolError, ServiceUnavailable
from hpcserve.wire.frames import agree, decode_from_anyone, error_to_wire
from hpcserve.wire.hub import (
    AdmitKey,
    BrokerUp,
    Done,
    EnrolAsk,
    EnrolVerdict,
    PilotSecrets,
    RevokeKey,
    ToAdmission,
    ToBroker,
)
from hpcserve.wire.messages import Enrol, Enrolled, FromAdmission, Hello, Refused, Welcome

BROKER_S = 2.0
"""How long the broker has to let a key in."""
CONTROLLER_S = 10.0
"""How long the controller has to judge an ENROL: it may ask the batch scheduler."""
MOST_PENDING = 10_000
MOST_SOFTWARE_CHARACTERS = 100
MOST_VERSIONS = 32


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How often one may ask: a rate per second, and a burst.

    ``known``: each key that is authorised; a thousand ranks may share one. ``stranger``: each other key.
    ``strangers``: all of these together. ``pilot``: each pilot, by its secret. ``enrols``: all other ENROLs together.
    """

    known: tuple[float, float] = (500.0, 5000.0)
    stranger: tuple[float, float] = (2.0, 10.0)
    strangers: tuple[float, float] = (100.0, 500.0)
    pilot: tuple[float, float] = (2.0, 10.0)
    enrols: tuple[float, float] = (100.0, 500.0)
    askers: int = 10_000


DEFAULT_LIMITS = Limits()


class Reply(NamedTuple):
    """Something to say to who is connected."""

    to: bytes
    message: FromAdmission


@dataclass(frozen=True, slots=True)
class _Pending:
    """Somebody who waits. ``ask`` is what the broker was told."""

    connection: bytes
    version: int
    until: float
    ask: AdmitKey | EnrolAsk


class Desk:
    """Admission's decisions.

    Args:
        identify: Whose key this is; None: a stranger's.
        admitted: Keys that were let in by an earlier run of admission; whose they are, ``identify`` says.
        software: This program and its version.
        limits: How often one may ask.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        identify: Callable[[bytes], str | None],
        *,
        admitted: Iterable[bytes],
        software: str,
        now: float,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._replies: list[Reply] = []
        self._to_broker: list[ToBroker] = []
        self.admitted: dict[bytes, str] = dict.fromkeys(admitted, "")
        """The keys that the broker is to know, answered or not. A name is empty until it was looked up."""
        self._identify = identify
        self._software = software
        self._known = Buckets(*limits.known, limits.askers)
        self._stranger = Buckets(*limits.stranger, limits.askers)
        self._strangers = Bucket(*limits.strangers, now)
        self._pilot = Buckets(*limits.pilot, limits.askers)
        self._enrols = Bucket(*limits.enrols, now)
        self._secrets: Mapping[str, str] = {}
        self._pending: dict[int, _Pending] = {}
        self._ticket = 0
        self._broker_is_up = False

    # --- from outside ---------------------------------------------------------------------------

    def said(self, connection: bytes, key: bytes, frames: list[bytes], now: float) -> None:
        """Somebody who holds ``key`` sent a message."""
        name = self._identify(key)
        message = _read(frames)
        wait_s = self._ration(key, name, message, now)
        if wait_s is None:
            return
        try:
            if wait_s:
                raise Overloaded("this key asks too often", retry_after_s=wait_s)
            if isinstance(message, Hello):
                self._hello(connection, key, name, message, now)
            elif isinstance(message, Enrol):
                self._enrol(connection, key, message, now)
            else:
                raise message
        except HpcserveError as error:
            self._refuse(connection, error)

    def identified(self, connection: bytes, key: bytes, name: str, version: int, now: float) -> None:
        """Whose key it is was found out: the broker is to let it in."""
        self._ask(connection, version, now + BROKER_S, AdmitKey(key, "client", name, self._next()))
        self.admitted[key] = name

    def _ration(self, key: bytes, name: str | None, message: object, now: float) -> float | None:
        """How long ``key`` has to wait before it may ask; None: it gets no answer."""
        if isinstance(message, Enrol) and self._is_pilot(message):
            return self._pilot.take(message.pilot, now)
        if name is not None:
            return self._known.take(key, now)
        wait_s = self._stranger.take(key, now)
        if wait_s == 0 and not isinstance(message, Enrol) and self._strangers.take(now):
            return None
        return wait_s

    def _is_pilot(self, message: Enrol) -> bool:
        """Whether it holds a pilot's secret. That is not yet all that the controller wants to see."""
        digest = hashlib.sha256(message.secret.encode()).hexdigest()
        return compare_digest(digest, self._secrets.get(message.pilot, ""))

    def _hello(self, connection: bytes, key: bytes, name: str | None, message: Hello, now: float) -> None:
        version = self._agree(message)
        if name is None:
            raise AuthenticationError(
                "the service does not know this key; its owner lets it in by adding this line to the file "
                f"authorized_keys in the service's state directory: YOUR-NAME {to_z85(key)}"
            )
        self.identified(connection, key, name, version, now)

    def _enrol(self, connection: bytes, key: bytes, message: Enrol, now: float) -> None:
        version = self._agree(message)
        wait_s = 0.0 if self._is_pilot(message) else self._enrols.take(now)
        if wait_s:
            raise Overloaded("too many agents enrol at once", retry_after_s=wait_s)
        if not self._broker_is_up:
            raise _no_broker()
        ask = EnrolAsk(self._next(), key, message.pilot, message.incarnation, message.secret, message.host)
        self._ask(connection, version, now + CONTROLLER_S, ask)

    def _agree(self, message: Hello | Enrol) -> int:
        versions = tuple(message.versions[:MOST_VERSIONS])
        return agree(versions, message.software[:MOST_SOFTWARE_CHARACTERS], self._software)

    def _ask(self, connection: bytes, version: int, until: float, ask: AdmitKey | EnrolAsk) -> None:
        if len(self._pending) >= MOST_PENDING:
            raise Overloaded("too many wait to be let in", retry_after_s=BROKER_S)
        self._pending[ask.ticket] = _Pending(connection, version, until, ask)
        if self._broker_is_up:
            self._to_broker.append(ask)

    # --- from the broker ------------------------------------------------------------------------

    def broker_says(self, message: ToAdmission) -> None:
        """The broker runs and knows nothing, has done what it was asked, or passes on what the controller says."""
        if isinstance(message, BrokerUp):
            self._broker_is_up = True
            self._say_all()
        elif isinstance(message, Done):
            waiting = self._settled(message.ticket, AdmitKey)
            if waiting is not None and isinstance(waiting.ask, AdmitKey):
                welcome = Welcome(waiting.version, self._software, waiting.ask.subject)
                self._replies.append(Reply(waiting.connection, welcome))
        elif isinstance(message, PilotSecrets):
            self._secrets = message.sha256
        else:
            self._verdict(message)

    def broker_is_gone(self) -> None:
        """The broker ended. A key waits for the next one, which may come in time; an agent asks again."""
        self._broker_is_up = False
        asks = [ticket for ticket, pending in self._pending.items() if isinstance(pending.ask, EnrolAsk)]
        for ticket in asks:
            self._refuse(self._pending.pop(ticket).connection, _no_broker())

    def _verdict(self, verdict: EnrolVerdict) -> None:
        waiting = self._settled(verdict.ticket, EnrolAsk)
        if waiting is None:
            return
        answer = Enrolled(waiting.version, self._software) if verdict.error is None else Refused(verdict.error)
        self._replies.append(Reply(waiting.connection, answer))

    def _settled(self, ticket: int, kind: type) -> _Pending | None:
        waiting = self._pending.get(ticket)
        if waiting is None or not isinstance(waiting.ask, kind):
            return None
        return self._pending.pop(ticket)

    def _say_all(self) -> None:
        """Tells a new broker every key, those that somebody waits for with their tickets."""
        self.revoke_strangers()
        waiting = [pending.ask for pending in self._pending.values() if isinstance(pending.ask, AdmitKey)]
        asked = {ask.key for ask in waiting}
        self._to_broker += [AdmitKey(key, "client", name) for key, name in self.admitted.items() if key not in asked]
        self._to_broker += waiting

    # --- the list of keys, and the time -----------------------------------------------------------

    def revoke_strangers(self) -> None:
        """The list of authorised keys may have changed: who is not on it any more is put out."""
        for key in list(self.admitted):
            name = self._identify(key)
            if name is not None:
                self.admitted[key] = name
                continue
            if self._broker_is_up:
                del self.admitted[key]
                self._to_broker.append(RevokeKey(key))

    def tick(self, now: float) -> None:
        """Gives up on answers that do not come."""
        late = [ticket for ticket, pending in self._pending.items() if now >= pending.until]
        for ticket in late:
            self._refuse(self._pending.pop(ticket).connection, _no_broker())

    def take_replies(self) -> list[Reply]:
        """What is to be said to those outside, once."""
        taken, self._replies = self._replies, []
        return taken

    def take_for_broker(self) -> list[ToBroker]:
        """What is to be said to the broker, once."""
        taken, self._to_broker = self._to_broker, []
        return taken

    @property
    def due(self) -> float:
        """When :meth:`tick` has something to do."""
        return min((pending.until for pending in self._pending.values()), default=float("inf"))

    def _next(self) -> int:
        self._ticket += 1
        return self._ticket

    def _refuse(self, connection: bytes, error: HpcserveError) -> None:
        self._replies.append(Reply(connection, Refused(error_to_wire(error))))


def _read(frames: list[bytes]) -> Hello | Enrol | ProtocolError:
    """The message, or why it is none."""
    if len(frames) != 1:
        return ProtocolError(f"a message of {len(frames)} frames: HELLO and ENROL have one")
    try:
        message: Hello | Enrol = decode_from_anyone(frames[0])
    except ProtocolError as error:
        return error
    return message


def _no_broker() -> ServiceUnavailable:
    return ServiceUnavailable(
        "a part of the daemon restarts or stands still; try again in a second; if it stays so: hpcserve doctor",
        retry_after_s=1.0,
    )
