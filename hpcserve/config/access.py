"""``[access]``: who may do what, and the words for it. What they come to, :mod:`hpcserve.core.access` decides."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

from hpcserve.config.section import Section

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_RULE = re.compile(rf"\*|user:[^\s:][^\s]{{0,127}}|(id|group):{_UUID}|domain:[a-z0-9][a-z0-9.-]*")
RULES = '"*", "user:NAME", "id:UUID", "domain:NAME" or "group:UUID", in lower case but for NAME of a user'
PUBLIC: Final = "public"
PRIVATE: Final = "private"
_NAME_THEM = 'name them in the site file: [access] administer = { allow = ["user:NAME"] }'


def check_rule(rule: str) -> None:
    """Whether this is a rule.

    Raises:
        ValueError: It is none.
    """
    if not _RULE.fullmatch(rule):
        raise ValueError(f"expected {RULES}, got {rule!r}")


def visibility(words: Iterable[str]) -> tuple[str, ...]:
    """The rules that these words come to: ``public``, ``private``, or rules.

    Raises:
        ValueError: A word is none of these, or they contradict each other.
    """
    wanted = tuple(dict.fromkeys(words))
    if wanted in ((PUBLIC,), ("*",)):
        return ("*",)
    if wanted == (PRIVATE,):
        return ()
    if not wanted or not {PUBLIC, PRIVATE, "*"}.isdisjoint(wanted):
        raise ValueError(
            f"expected {PUBLIC!r} alone, {PRIVATE!r} alone, or rules such as 'user:NAME', got {', '.join(wanted)}"
        )
    for rule in wanted:
        if not _RULE.fullmatch(rule):
            raise ValueError(f"expected {PUBLIC!r}, {PRIVATE!r}, {RULES}, got {rule!r}")
    return wanted


def in_words(visible_to: tuple[str, ...]) -> tuple[str, ...]:
    """The words that come to these rules."""
    return (PRIVATE,) if not visible_to else (PUBLIC,) if visible_to == ("*",) else visible_to


class Rules(Section, frozen=True):
    """``[access.call]``, and so on: whom a list allows, and whom it denies. An empty ``allow`` with keys: everybody."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, rules in (("allow", self.allow), ("deny", self.deny)):
            for rule in rules:
                try:
                    check_rule(rule)
                except ValueError as error:
                    raise ValueError(f"{field}: {error}") from error

    def allowed(self, auth: str) -> tuple[str, ...]:
        """Whom it allows. The list of keys is itself a policy; of those who log in none is known by it."""
        return self.allow or (("*",) if auth == "keys" else ())


class Access(Section, frozen=True):
    """``[access]``: who may call, publish, deploy and administer; ``allow`` and ``deny`` are rules, and a deny wins.

    ``accounts``: a file that maps identities to accounts of the site.
    """

    call: Rules = Rules()
    publish: Rules = Rules()
    deploy: Rules = Rules()
    administer: Rules = Rules()
    default_visibility: Literal["public", "private"] = PUBLIC
    accounts: str = ""

    def __post_init__(self) -> None:
        if self.accounts and not self.accounts.startswith("/"):
            raise ValueError(f"accounts: expected the whole path of a mapping file, got {self.accounts!r}")

    def lists(self) -> dict[str, Rules]:
        """The four lists, by name."""
        return {"call": self.call, "publish": self.publish, "deploy": self.deploy, "administer": self.administer}

    def check(self, auth: str) -> None:
        """Whether this can be meant, as callers prove who they are by ``auth``.

        Raises:
            ValueError: It cannot.
        """
        if auth == "keys":
            self._check_of_keys()
        elif not self.administer.allow:
            raise ValueError(f"access.administer.allow: with auth = {auth!r} nobody is an administrator but {_NAMED}")
        self._check_effect(auth)

    def _check_of_keys(self) -> None:
        if self.accounts:
            raise ValueError("access.accounts: identities of Globus are mapped by it; with auth = 'keys' none come")
        for name, rules in self.lists().items():
            for rule in (*rules.allow, *rules.deny):
                if rule.partition(":")[0] in ("id", "domain", "group"):
                    raise ValueError(f"access.{name}: {rule!r} names nobody with auth = 'keys'; expected 'user:NAME'")

    def _check_effect(self, auth: str) -> None:
        """Whether a list, or a visibility, keeps anybody out: administrators may do everything."""
        if "*" not in self.administer.allowed(auth) or self.administer.deny:
            return
        if self.default_visibility == PRIVATE:
            raise ValueError(
                f"access.default_visibility: nothing is private while all are administrators; {_NAME_THEM}"
            )
        for name in ("call", "publish", "deploy"):
            allow = self.lists()[name].allow
            if allow and "*" not in allow:
                raise ValueError(f"access.{name}.allow: keeps nobody out while all are administrators; {_NAME_THEM}")


_NAMED = 'who is named; write: [access] administer = { allow = ["user:YOU@YOUR.ORGANIZATION"] }'
