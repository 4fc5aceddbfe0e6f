"""Who has come in with a token of Globus, and what becomes of them. No sockets and no threads: a part of the desk.

A login binds a key to an identity until the token ends, is revoked, or nobody can say whether it still holds. The same
person may come again with another token, which replaces the first; another person's token is refused by a key that is
bound, since whoever has the key could use what was opened with it.

Tokens are held in memory only, for as long as they have to be asked about.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from hpcserve.auth.keys import to_z85
from hpcserve.core.claims import Rules, login_required
from hpcserve.core.ratelimit import Buckets
from hpcserve.core.tokens import Checked, Digest, Question, Standing, Tokens
from hpcserve.errors import AuthenticationError, Conflict, HpcserveError, Overloaded, ServiceUnavailable
from hpcserve.wire.hub import Identity

T = TypeVar("T")

WAIT_S = 3.5
"""How long somebody waits for Globus to answer: a client that hears nothing for longer takes admission for dead."""
SOON_S = 0.05
MOST_WAITING = 10_000
MOST_ASKED = 1_000
"""Strangers' questions that have no answer yet; more are not put."""
MOST_TOKEN_BYTES = 8 << 10


class Waiting(NamedTuple):
    """Somebody who has said HELLO."""

    connection: bytes
    key: bytes
    version: int
    peer: str = ""


class LetIn(NamedTuple):
    """Who waits is to be welcome for so long."""

    waiting: Waiting
    identity: Identity
    expires_in_s: float


class Refuse(NamedTuple):
    """Who waits is not, with this token."""

    waiting: Waiting
    error: HpcserveError
    digest: Digest


class Renew(NamedTuple):
    """Whoever a key belongs to is in for longer, or something else is known of them."""

    key: bytes
    identity: Identity


class PutOut(NamedTuple):
    """A key is to be put out."""

    key: bytes
    error: HpcserveError


Action = LetIn | Refuse | Renew | PutOut


@dataclass(slots=True)
class _Bound:
    digest: Digest
    identity: Identity
    until: float


def digest_of(token: str) -> Digest:
    """The SHA-256 of a token, which is all that is ever written of it."""
    return Digest(hashlib.sha256(token.encode()).hexdigest())


class Logins:
    """The keys that are bound to identities, and who waits to be.

    Args:
        tokens: What is known of tokens.
        rules: What the site demands.
        keys_per_identity: The most keys that one identity may have in at once.
        rate: How often one identity may say HELLO: per second, and how many at once.
        account: The site's account of an identity, by its id and user name; empty if it has none.
    """

    def __init__(
        self,
        tokens: Tokens,
        rules: Rules,
        *,
        keys_per_identity: int,
        rate: tuple[float, float],
        account: Callable[[str, str], str] | None = None,
    ) -> None:
        self._account = account
        self._tokens = tokens
        self._rules = rules
        self._most_keys = keys_per_identity
        self._rate = Buckets(*rate, MOST_WAITING)
        self._secrets: dict[Digest, str] = {}
        self._bound: dict[bytes, _Bound] = {}
        self._keys: dict[str, set[bytes]] = {}
        self._users: dict[Digest, set[bytes]] = {}
        self._waiting: dict[Digest, list[tuple[float, Waiting]]] = {}
        self._lates: deque[tuple[float, Digest]] = deque()
        self._agenda: list[tuple[float, Digest]] = []
        self._planned: dict[Digest, float] = {}
        self._actions: list[Action] = []
        self._questions: list[tuple[Question, str]] = []
        self._asked = 0

    def is_good(self, token: str, now: float) -> bool:
        """Whether the token is known, and lets in."""
        return isinstance(self._tokens.standing(digest_of(token), now), Standing)

    def token(self, digest: str) -> str:
        """The token of this SHA-256 by which a key is in; empty: none is."""
        known = Digest(digest)
        return self._secrets.get(known, "") if known in self._users else ""

    def is_asked(self, token: str) -> bool:
        """Whether Globus is being asked about the token."""
        return self._tokens.is_asked(digest_of(token))

    def until(self, key: bytes) -> float:
        """Until when the key is in if nothing more is heard, in monotonic seconds; 0 if it is not."""
        bound = self._bound.get(key)
        return 0.0 if bound is None else bound.until

    @property
    def due(self) -> float:
        """When :meth:`tick` has something to do."""
        lates = self._lates[0][0] if self._lates else float("inf")
        return min(lates, self._agenda[0][0] if self._agenda else float("inf"))

    # --- what happens ---------------------------------------------------------------------------

    def hello(self, waiting: Waiting, token: str, now: float, *, is_in: bool = False) -> None:
        """Somebody wants in.

        Args:
            waiting: Who.
            token: The token that came along; may be empty.
            now: Monotonic seconds.
            is_in: Whether the key is in: what has to be asked goes before what strangers have asked.

        Raises:
            HpcserveError: There is nothing to wait for.
        """
        if not token:
            raise login_required(self._rules, "this service wants a login with Globus")
        if len(token) > MOST_TOKEN_BYTES or not token.isascii() or not token.isprintable():
            raise AuthenticationError("what came as a token is none")
        digest = digest_of(token)
        standing = self._tokens.standing(digest, now)
        if isinstance(standing, Standing):
            self._settle(waiting, digest, standing, now)
            return
        if standing is not None and not standing.retryable:
            raise standing
        if self._ask(digest, token, now, first=is_in) is None and not self._tokens.is_asked(digest):
            raise standing or self._tokens.ended(digest, now)
        if len(self._lates) >= MOST_WAITING:
            raise Overloaded("too many wait to be let in", retry_after_s=2.0)
        self._waiting.setdefault(digest, []).append((now + WAIT_S, waiting))
        self._lates.append((now + WAIT_S, digest))

    def _ask(self, digest: Digest, token: str, now: float, *, first: bool) -> Question | None:
        if self._asked >= MOST_ASKED and not first:
            raise Overloaded("too many log in at once", retry_after_s=2.0)
        question = self._tokens.ask(digest, now)
        if question is not None:
            self._secrets[digest] = token
            self._asked += 0 if first else 1
            self._questions.append((question._replace(first=first, until=now + WAIT_S), token))
        return question

    def heard(self, question: Question, checked: Checked, now: float) -> None:
        """Globus has answered, or has not."""
        self._asked -= 0 if question.first else 1
        digest = question.digest
        self._tokens.heard(question, checked, now)
        standing = self._tokens.standing(digest, now) or self._tokens.ended(digest, now)
        for _, waiting in self._waiting.pop(digest, ()):
            try:
                if not isinstance(standing, Standing):
                    raise standing
                self._settle(waiting, digest, standing, now)
            except HpcserveError as error:
                self._actions.append(Refuse(waiting, error, digest))
        self._review(digest, now)

    def tick(self, now: float) -> None:
        """Asks again about those who are in, puts out those of whom nothing counts any more, gives up waiting."""
        while self._agenda and self._agenda[0][0] <= now:
            at, digest = heapq.heappop(self._agenda)
            if self._planned.get(digest) == at:
                del self._planned[digest]
                self._review(digest, now)
        while self._lates and self._lates[0][0] <= now:
            _, digest = self._lates.popleft()
            line = self._waiting.get(digest, [])
            while line and line[0][0] <= now:
                error = ServiceUnavailable("Globus does not answer in time; try again in a moment", retry_after_s=2.0)
                self._actions.append(Refuse(line.pop(0)[1], error, digest))
            if not line:
                self._waiting.pop(digest, None)

    def groups_count(self, count: bool, now: float) -> None:  # noqa: FBT001  what a message says
        """Whether any rule names a group now: all who are in are asked about, if they were not."""
        self._tokens.asks_groups = count
        for digest in list(self._users):
            self._review(digest, now)

    def sweep(self, now: float) -> None:
        """Forgets the tokens that nobody uses, now and then."""
        for digest in self._tokens.forget(self._users.keys() | self._waiting.keys(), now):
            self._secrets.pop(digest, None)

    # --- what comes of it -----------------------------------------------------------------------

    def take(self) -> list[Action]:
        """What is to be done, once."""
        taken, self._actions = self._actions, []
        return taken

    def take_questions(self) -> list[tuple[Question, str]]:
        """What Globus is to be asked, once."""
        taken, self._questions = self._questions, []
        return taken

    def _settle(self, waiting: Waiting, digest: Digest, standing: Standing, now: float) -> None:
        """Somebody whose token is good: in, unless that would be too much."""
        person, key = standing.person, waiting.key
        wait_s = self._rate.take(person.id, now)
        if wait_s:
            raise Overloaded(f"{person.name} says HELLO too often", retry_after_s=wait_s)
        bound = self._bound.get(key)
        if bound is not None and bound.identity.id not in person.linked:
            raise Conflict(
                f"your key is in use by a login of {bound.identity.name}: log that out (hpcserve logout), and after a "
                "minute log in again; or use a key of your own, by another HPCSERVE_HOME"
            )
        if bound is None and len(self._keys.get(person.id, ())) >= self._most_keys:
            raise Overloaded(
                f"{person.name} has {self._most_keys} keys in use, the most that one may have",
                retry_after_s=10.0,
            )
        identity = self._identity(key, digest, standing)
        self._bind(key, _Bound(digest, identity, standing.until))
        self._plan(digest, self._tokens.due(digest))
        self._actions.append(LetIn(waiting, identity, max(0.0, standing.ends - now)))

    def _review(self, digest: Digest, now: float) -> None:
        """Sees to all keys that are in by this token."""
        keys = self._users.get(digest)
        if not keys:
            return
        standing = self._tokens.standing(digest, now)
        if isinstance(standing, Standing):
            self._renew(keys, digest, standing)
            if now >= self._tokens.due(digest):
                question = self._tokens.ask(digest, now)
                if question is not None:
                    self._questions.append((question._replace(first=True), self._secrets[digest]))
            self._plan(digest, max(self._tokens.due(digest), now + SOON_S))
            return
        error = standing or self._tokens.ended(digest, now)
        for key in list(keys):
            self._unbind(key)
            self._actions.append(PutOut(key, error))

    def _plan(self, digest: Digest, at: float) -> None:
        """Has the token seen to at this time, or before."""
        if at < self._planned.get(digest, float("inf")):
            self._planned[digest] = at
            heapq.heappush(self._agenda, (at, digest))

    def _renew(self, keys: set[bytes], digest: Digest, standing: Standing) -> None:
        for key in list(keys):
            bound, identity = self._bound[key], self._identity(key, digest, standing)
            if identity == bound.identity and standing.until == bound.until:
                continue
            self._bind(key, _Bound(digest, identity, standing.until))
            self._actions.append(Renew(key, identity))

    def _identity(self, key: bytes, digest: Digest, standing: Standing) -> Identity:
        person = standing.person
        return Identity(
            person.name,
            to_z85(key),
            person.id,
            person.domain,
            standing.groups,
            person.linked,
            digest,
            "" if self._account is None else self._account(person.id, person.name),
            person.linked_names,
        )

    def _bind(self, key: bytes, bound: _Bound) -> None:
        if key in self._bound:
            self._unbind(key)
        self._bound[key] = bound
        self._keys.setdefault(bound.identity.id, set()).add(key)
        self._users.setdefault(bound.digest, set()).add(key)

    def _unbind(self, key: bytes) -> None:
        bound = self._bound.pop(key)
        _drop(self._keys, bound.identity.id, key)
        _drop(self._users, bound.digest, key)


def _drop(table: dict[T, set[bytes]], of: T, key: bytes) -> None:
    table[of].discard(key)
    if not table[of]:
        del table[of]
