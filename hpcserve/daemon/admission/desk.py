"""Who is let in: what admission answers to HELLO and ENROL, and what it tells the broker. No sockets here.

A HELLO is answered in two steps: who is it (the list of authorised keys says so at once, Globus a while later: see
:mod:`hpcserve.daemon.admission.logins`), then the broker learns the key, and only when it says so the client is
welcome. An ENROL is the controller's to judge.

What is malformed is refused with a reason, as long as strangers have not used up what they may ask together:
after that a stranger gets no answer at all, while known keys are not affected. Nor are the agents of pilots that
the controller has named: who sends a pilot's secret is charged to that pilot alone, so that those who do not
cannot use up what it may ask, with however many keys. All others who ENROL share an allowance.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from secrets import compare_digest
from typing import NamedTuple

import msgspec

from hpcserve.auth.keys import to_z85
from hpcserve.core.ratelimit import Bucket, Buckets
from hpcserve.core.tokens import Checked, Question
from hpcserve.daemon.admission.logins import LetIn, Logins, Refuse, Renew, Waiting, digest_of
from hpcserve.daemon.admission.records import HELLO, record
from hpcserve.daemon.audit import PUT_OUT, Record
from hpcserve.errors import AuthenticationError, HpcserveError, Overloaded, ProtocolError, ServiceUnavailable
from hpcserve.wire.frames import agree, decode_from_anyone, error_to_wire
from hpcserve.wire.hub import (
    AdmitKey,
    AskToken,
    BrokerUp,
    Done,
    EnrolAsk,
    EnrolVerdict,
    GroupsCount,
    Identity,
    PilotSecrets,
    RevokeKey,
    ToAdmission,
    ToBroker,
    TokenIs,
)
from hpcserve.wire.messages import Enrol, Enrolled, FromAdmission, Hello, Refused, Welcome

BROKER_S = 2.0
"""How long the broker has to let a key in."""
CONTROLLER_S = 10.0
"""How long the controller has to judge an ENROL: it may ask the batch scheduler."""
MOST_PENDING = 10_000
MOST_SOFTWARE_CHARACTERS = 100
MOST_VERSIONS = 32
FOR_EVER = math.inf


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How often one may ask: a rate per second, and a burst.

    ``known``: each key that is authorised; a thousand ranks may share one. ``stranger``: each other key.
    ``strangers``: all of these together. ``pilot``: each pilot, by its secret. ``enrols``: all other ENROLs together.
    With Globus a key is known by its token, or by having been let in; ``returning``: each identity that is in, with
    tokens that are not known yet. ``companions``: all who come with a token that is being asked about, together.
    """

    known: tuple[float, float] = (500.0, 5000.0)
    stranger: tuple[float, float] = (2.0, 10.0)
    strangers: tuple[float, float] = (100.0, 500.0)
    returning: tuple[float, float] = (5.0, 50.0)
    companions: tuple[float, float] = (500.0, 5000.0)
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
    """Somebody who waits. ``ask`` is what the broker was told, ``expires_in_s`` for how long a client is let in."""

    connection: bytes
    version: int
    until: float
    ask: AdmitKey | EnrolAsk
    expires_in_s: float | None = None


class Desk:
    """Admission's decisions.

    Args:
        identify: Whose key this is; None: a stranger's.
        admitted: Keys that were let in by an earlier run of admission, and until when.
        software: This program and its version.
        limits: How often one may ask.
        logins: Where a login with Globus is what lets in; ``identify`` is not asked then.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        identify: Callable[[bytes], str | None],
        *,
        admitted: Mapping[bytes, float],
        software: str,
        now: float,
        limits: Limits = DEFAULT_LIMITS,
        logins: Logins | None = None,
    ) -> None:
        self._replies: list[Reply] = []
        self._to_broker: list[ToBroker] = []
        self._records: list[Record] = []
        self.admitted: dict[bytes, Identity | None] = dict.fromkeys(admitted)
        """The keys that the broker is to know, answered or not; None: of an earlier run, and not looked up yet."""
        self._earlier = dict(admitted)
        self._to_put_out: dict[bytes, HpcserveError] = {}
        self._added: list[bytes] = []
        self._removed = False
        self._identify = identify
        self._logins = logins
        self._software = software
        self._known = Buckets(*limits.known, limits.askers)
        self._stranger = Buckets(*limits.stranger, limits.askers)
        self._strangers = Bucket(*limits.strangers, now)
        self._returning = Buckets(*limits.returning, limits.askers)
        self._companions = Bucket(*limits.companions, now)
        self._pilot = Buckets(*limits.pilot, limits.askers)
        self._enrols = Bucket(*limits.enrols, now)
        self._secrets: Mapping[str, str] = {}
        self._pending: dict[int, _Pending] = {}
        self._ticket = 0
        self._broker_is_up = False
        self._now = now

    # --- from outside ---------------------------------------------------------------------------

    def said(self, connection: bytes, key: bytes, frames: list[bytes], now: float, *, peer: str = "") -> None:
        """Somebody who holds ``key`` sent a message, from the address ``peer``."""
        name = self._identify(key) if self._logins is None else None
        message = _read(frames)
        wait_s = self._ration(key, name, message, now)
        if wait_s is None:
            return
        try:
            if wait_s:
                raise Overloaded(
                    "this key asks too often to be let in: look for programs of yours that try again without a pause",
                    retry_after_s=wait_s,
                )
            if isinstance(message, Hello):
                self._hello(Waiting(connection, key, 0, peer), name, message, now)
            elif isinstance(message, Enrol):
                self._enrol(connection, key, message, now)
            else:
                raise message
        except HpcserveError as error:
            self._refuse(connection, error)
            known = name is not None or key in self.admitted
            if isinstance(message, Hello) and (known or not isinstance(error, Overloaded)):
                digest = digest_of(message.token) if message.token else ""
                self._record(HELLO, key, None, error, digest=digest, peer=peer)

    def heard(self, question: Question, checked: Checked, now: float) -> None:
        """Globus has answered, or failed to."""
        if self._logins is not None:
            self._logins.heard(question, checked, now)
            self._follow(self._logins, now)

    def _let_in(self, waiting: Waiting, identity: Identity, expires_in_s: float | None, now: float) -> None:
        """Whose key it is was found out: the broker is to let it in."""
        ask = self._admit(waiting.key, identity, self._next(), now)
        self._ask(waiting.connection, waiting.version, now + BROKER_S, ask, expires_in_s)
        if waiting.key not in self.admitted:
            self._added.append(waiting.key)
        self.admitted[waiting.key] = identity
        self._earlier.pop(waiting.key, None)
        self._to_put_out.pop(waiting.key, None)
        self._record(HELLO, waiting.key, identity, None, peer=waiting.peer)

    def _follow(self, logins: Logins, now: float) -> None:
        """Carries out what has come of logins."""
        for action in logins.take():
            if isinstance(action, LetIn):
                try:
                    self._let_in(action.waiting, action.identity, action.expires_in_s, now)
                except HpcserveError as error:
                    self._refuse(action.waiting.connection, error)
            elif isinstance(action, Refuse):
                self._refuse(action.waiting.connection, action.error)
                waiting = action.waiting
                self._record(HELLO, waiting.key, None, action.error, digest=action.digest, peer=waiting.peer)
            elif isinstance(action, Renew):
                self.admitted[action.key] = action.identity
                if self._broker_is_up:
                    self._to_broker.append(self._admit(action.key, action.identity, 0, now))
            else:
                self._put_out(action.key, action.error)

    def _admit(self, key: bytes, identity: Identity, ticket: int, now: float) -> AdmitKey:
        """What the broker is told: the key is out by itself when admission is not there to renew it."""
        lasts_s = None if self._logins is None else max(0.0, self._logins.until(key) - now)
        return AdmitKey(key, "client", identity.name, ticket, identity, lasts_s)

    def _put_out(self, key: bytes, error: HpcserveError) -> None:
        """A key is not let in any more. A broker that is away hears of it when it is back."""
        self._record(PUT_OUT, key, self.admitted.pop(key, None), error)
        self._earlier.pop(key, None)
        self._removed = True
        if self._broker_is_up:
            self._to_broker.append(RevokeKey(key, error_to_wire(error)))
        else:
            self._to_put_out[key] = error

    def _ration(self, key: bytes, name: str | None, message: object, now: float) -> float | None:
        """How long ``key`` has to wait before it may ask; None: it gets no answer."""
        if isinstance(message, Enrol) and self._is_pilot(message):
            return self._pilot.take(message.pilot, now)
        if name is not None:
            return self._known.take(key, now)
        if self._logins is not None and isinstance(message, Hello):
            is_in, is_asked = key in self.admitted, self._logins.is_asked(message.token)
            if (is_in and (is_asked or not message.token)) or self._logins.is_good(message.token, now):
                return self._known.take(key, now)
            if is_in:
                identity = self.admitted[key]
                return self._returning.take(key if identity is None else identity.id, now)
            if is_asked:
                return None if self._companions.take(now) else 0.0
        return self._ration_of_stranger(key, message, now)

    def _ration_of_stranger(self, key: bytes, message: object, now: float) -> float | None:
        wait_s = self._stranger.take(key, now)
        if wait_s == 0 and not isinstance(message, Enrol) and self._strangers.take(now):
            return None
        return wait_s

    def _is_pilot(self, message: Enrol) -> bool:
        """Whether it holds a pilot's secret. That is not yet all that the controller wants to see."""
        digest = hashlib.sha256(message.secret.encode()).hexdigest()
        return compare_digest(digest, self._secrets.get(message.pilot, ""))

    def _hello(self, waiting: Waiting, name: str | None, message: Hello, now: float) -> None:
        key, waiting = waiting.key, waiting._replace(version=self._agree(message))
        if self._logins is not None:
            self._logins.hello(waiting, message.token, now, is_in=key in self.admitted)
            self._follow(self._logins, now)
            return
        if name is None:
            raise AuthenticationError(
                "the service does not know this key; its owner lets it in by adding this line to the file "
                f"authorized_keys in the service's state directory: YOUR-NAME {to_z85(key)}"
            )
        self._let_in(waiting, Identity(name, to_z85(key)), None, now)

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

    def _ask(
        self,
        connection: bytes,
        version: int,
        until: float,
        ask: AdmitKey | EnrolAsk,
        expires_in_s: float | None = None,
    ) -> None:
        if len(self._pending) >= MOST_PENDING:
            raise Overloaded("too many wait to be let in", retry_after_s=BROKER_S)
        self._pending[ask.ticket] = _Pending(connection, version, until, ask, expires_in_s)
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
                welcome = Welcome(waiting.version, self._software, waiting.ask.subject, waiting.expires_in_s)
                self._replies.append(Reply(waiting.connection, welcome))
        elif isinstance(message, PilotSecrets):
            self._secrets = message.sha256
        elif isinstance(message, GroupsCount):
            if self._logins is not None:
                self._logins.groups_count(message.count, self._now)
                self._follow(self._logins, self._now)
        elif isinstance(message, AskToken):
            token = "" if self._logins is None else self._logins.token(message.token_sha256)
            self._to_broker.append(TokenIs(message.ticket, token))
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
        self._to_broker += [RevokeKey(key, error_to_wire(error)) for key, error in self._to_put_out.items()]
        self._to_put_out.clear()
        self.revoke_strangers()
        waiting = [pending.ask for pending in self._pending.values() if isinstance(pending.ask, AdmitKey)]
        asked = {ask.key for ask in waiting}
        self._to_broker += [
            self._admit(key, identity, 0, self._now)
            for key, identity in self.admitted.items()
            if identity is not None and key not in asked
        ]
        self._to_broker += waiting

    # --- the list of keys, and the time -----------------------------------------------------------

    def revoke_strangers(self) -> None:
        """The list of authorised keys may have changed: who is not on it any more is put out."""
        for key in list(self.admitted) if self._logins is None else ():
            name = self._identify(key)
            if name is not None:
                self.admitted[key] = Identity(name, to_z85(key))
            elif self._broker_is_up:
                self._put_out(key, AuthenticationError("this key was taken out of the service's list"))

    def tick(self, now: float) -> None:
        """Gives up on answers that do not come."""
        self._now = now
        late = [ticket for ticket, pending in self._pending.items() if now >= pending.until]
        for ticket in late:
            self._refuse(self._pending.pop(ticket).connection, _no_broker())
        if self._logins is not None:
            self._logins.tick(now)
            self._follow(self._logins, now)

    def look(self, now: float) -> None:
        """Now and then: puts out those whom an earlier run let in and who have not come again in time."""
        if self._logins is None:
            return
        self._logins.sweep(now)
        for key in [key for key, until in self._earlier.items() if now >= until]:
            self._put_out(key, ServiceUnavailable("say HELLO to admission again", retry_after_s=0.1))

    def until(self, key: bytes) -> float:
        """Until when a key that is in stays so if nothing more is heard, in monotonic seconds."""
        if self._logins is None:
            return FOR_EVER
        return self._earlier[key] if key in self._earlier else self._logins.until(key)

    def take_changes(self) -> tuple[list[bytes], bool]:
        """Which keys were let in, and whether any was put out, once."""
        taken, self._added, self._removed = (self._added, self._removed), [], False
        return taken

    def take_questions(self) -> list[tuple[Question, str]]:
        """What Globus is to be asked, each with its token, once."""
        return [] if self._logins is None else self._logins.take_questions()

    def take_records(self) -> list[Record]:
        """What was decided about HELLOs, for the audit log, once."""
        taken, self._records = self._records, []
        return taken

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
        first = min((pending.until for pending in self._pending.values()), default=FOR_EVER)
        return first if self._logins is None else min(first, self._logins.due)

    def _next(self) -> int:
        self._ticket += 1
        return self._ticket

    def _refuse(self, connection: bytes, error: HpcserveError) -> None:
        self._replies.append(Reply(connection, Refused(error_to_wire(error))))

    def _record(
        self,
        action: str,
        key: bytes,
        identity: Identity | None,
        error: HpcserveError | None,
        *,
        digest: str = "",
        peer: str = "",
    ) -> None:
        by = "authorized_keys" if self._logins is None else "globus"
        self._records.append(record(action, by, key, identity, error, digest=digest, peer=peer))


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
