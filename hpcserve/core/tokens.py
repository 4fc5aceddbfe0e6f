"""For how long counts what Globus has said of a token, and when it is asked again. Tokens are known by their SHA-256.

The age of an answer is counted from when it was asked for, since a token may be revoked while the answer is on its way.
An answer counts for ``cache_s``, and never beyond the token's own end. It is asked for anew when five sixths of that
are over: once a period for each token, however many come with it, and in time for an answer that is late. If none
comes, those who were let in stay until the old answer's time is up, and no longer.

A token that was refused is refused again for ``refused_s`` without a question. Memberships of groups have an age of
their own, and are asked for only while anything depends on them: that takes two of three questions of a login.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import NamedTuple, NewType

from hpcserve.core.claims import Person, Rules, check_groups, login_required
from hpcserve.errors import HpcserveError, ServiceUnavailable

Digest = NewType("Digest", str)
"""The SHA-256 of a token, in hexadecimal."""
RENEW = 5 / 6
"""An answer is asked for anew after this part of its time."""
AGAIN_S = 1.0
"""A question that got no answer is put again so much later."""
GROUPS_AGAIN_S = 10.0
"""The same of a question about groups; before that they are asked for sooner, and each time twice as late."""


class Ages(NamedTuple):
    """How long answers count: about tokens, about groups, and refusals."""

    cache_s: float
    groups_s: float
    refused_s: float = 10.0


class Question(NamedTuple):
    """What Globus is to be asked: about this token, about its owner's groups, or about both.

    ``first``: whether it is about somebody who is in, and goes before the questions about strangers. ``until``: after
    that nobody waits for the answer, and the question is not put; monotonic seconds.
    """

    digest: Digest
    token: bool
    groups: bool
    first: bool = False
    until: float = inf


class Checked(NamedTuple):
    """What has come of a question: a person, or an error; if that is retryable, it says nothing about the token.

    ``groups`` is None if nothing could be found out about them. What was not asked for does not count.
    """

    person: Person | None = None
    expires_in_s: float = 0.0
    groups: tuple[str, ...] | None = None
    error: HpcserveError | None = None


class Standing(NamedTuple):
    """What counts at present: whose token it is, until when that is known, and when the token itself ends."""

    person: Person
    groups: tuple[str, ...] | None
    until: float
    ends: float


@dataclass(slots=True)
class _Known:
    person: Person | None = None
    until: float = 0.0
    renew: float = 0.0
    ends: float = 0.0
    groups: tuple[str, ...] | None = None
    groups_until: float = 0.0
    groups_renew: float = 0.0
    groups_pause: float = AGAIN_S
    refusal: HpcserveError | None = None
    refused_until: float = 0.0
    asked_at: float | None = None


class Tokens:
    """The tokens that somebody came with, and what is known of each. Times are monotonic seconds.

    Args:
        rules: What the site demands.
        ages: How long answers count.
        asks_groups: Whether groups are asked for at present; may be set. While they are not, they are unknown.
    """

    def __init__(self, rules: Rules, ages: Ages, *, asks_groups: bool = True) -> None:
        self._rules = rules
        self._ages = ages
        self.asks_groups = asks_groups
        self._known: dict[Digest, _Known] = {}

    def __len__(self) -> int:
        return len(self._known)

    def standing(self, digest: Digest, now: float) -> Standing | HpcserveError | None:
        """What counts of the token now; None: Globus has to be asked."""
        known = self._known.get(digest)
        if known is None:
            return None
        if known.refusal is not None and now < known.refused_until:
            return known.refusal
        if known.person is None or now >= known.until:
            return None
        groups = known.groups if now < known.groups_until else None
        try:
            check_groups(self._rules, groups)
        except HpcserveError as error:
            return error
        until = min(known.until, known.groups_until) if self._rules.groups else known.until
        return Standing(known.person, groups, until, known.ends)

    def ended(self, digest: Digest, now: float) -> HpcserveError:
        """Why nothing counts of the token any more: for those whom it had let in."""
        known = self._known.get(digest)
        if known is not None and known.refusal is not None and not known.refusal.retryable:
            return known.refusal
        if known is not None and known.person is not None and now >= known.ends:
            return login_required(self._rules, "the token has expired")
        return ServiceUnavailable(
            "Globus Auth does not say whether your login still holds; the client asks again by itself",
            retry_after_s=AGAIN_S,
        )

    def ask(self, digest: Digest, now: float) -> Question | None:
        """The question that is to be put now; None if one is under way, or it is too early for another."""
        known = self._known.setdefault(digest, _Known())
        question = Question(digest, now >= known.renew, self.asks_groups and now >= known.groups_renew)
        if known.asked_at is not None or not (question.token or question.groups):
            return None
        known.asked_at = now
        return question

    def is_asked(self, digest: Digest) -> bool:
        """Whether a question about the token is under way."""
        known = self._known.get(digest)
        return known is not None and known.asked_at is not None

    def heard(self, question: Question, checked: Checked, now: float) -> None:
        """A question is answered, or failed."""
        known = self._known.get(question.digest)
        if known is None or known.asked_at is None:
            return
        asked_at, known.asked_at = known.asked_at, None
        if checked.error is not None:
            self._failed(known, question, checked.error, now)
            return
        if question.token and checked.person is not None:
            if known.person is not None and known.person.id != checked.person.id:
                known.groups, known.groups_until = None, 0.0
            known.person, known.refusal = checked.person, None
            known.ends = now + checked.expires_in_s
            known.until = min(asked_at + self._ages.cache_s, known.ends)
            known.renew = asked_at + RENEW * self._ages.cache_s
        if question.groups and checked.groups is None:
            known.groups_renew = now + known.groups_pause
            known.groups_pause = min(2 * known.groups_pause, GROUPS_AGAIN_S)
        elif question.groups:
            known.groups, known.groups_pause = checked.groups, AGAIN_S
            known.groups_until = asked_at + self._ages.groups_s
            known.groups_renew = asked_at + RENEW * self._ages.groups_s

    def _failed(self, known: _Known, question: Question, error: HpcserveError, now: float) -> None:
        if error.retryable:
            if question.token:
                known.renew = now + AGAIN_S
            known.groups_renew = max(known.groups_renew, now + AGAIN_S)
            if known.person is None or now >= known.until:
                known.refusal, known.refused_until = error, now + AGAIN_S
            return
        known.person, known.groups, known.until, known.groups_until = None, None, 0.0, 0.0
        known.refusal, known.refused_until = error, now + self._ages.refused_s
        known.renew = known.groups_renew = known.refused_until

    def due(self, digest: Digest) -> float:
        """When something is to be done about a token that has let somebody in: to ask again, or to end it."""
        known = self._known.get(digest)
        if known is None or known.person is None:
            return 0.0
        until = min(known.until, known.groups_until) if self._rules.groups else known.until
        if known.asked_at is not None:
            return until
        return min(until, known.renew, known.groups_renew if self.asks_groups else until)

    def forget(self, kept: set[Digest], now: float) -> list[Digest]:
        """Drops, and returns, those of which nothing counts and that are not to be ``kept``."""
        dropped = [
            digest
            for digest, known in self._known.items()
            if digest not in kept and known.asked_at is None and now >= max(known.until, known.refused_until)
        ]
        for digest in dropped:
            del self._known[digest]
        return dropped
