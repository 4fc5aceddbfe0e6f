"""Who may do what: the one function that decides, for the broker and the controller alike (design §7).

A policy has four lists of rules, for those who may *call*, *publish*, *deploy* and *administer*. A rule is one of

| rule | names |
|---|---|
| ``*`` | everybody who was let in |
| ``user:NAME`` | the name: of the list of keys, or Globus's user name, whose case does not matter |
| ``id:UUID`` | an identity of Globus |
| ``domain:DOMAIN`` | whose session has an identity provider of this domain |
| ``group:UUID`` | the members of a group of Globus |

- A deny wins over everything. It holds for a person whose *linked* identity it names, by id, user name or domain,
  too, while an allow and an ownership hold for the identity that was logged in with alone.
- Groups that could not be asked for are closed: no allow holds by them, and every deny that names a group does.
- Whoever a list names as administrator may do everything, unless denied.
- An owner sees, calls and changes what is his, unless denied.
- *see* has no list of its own. It is denied to whom *call* denies; all others whom any list names see what is visible
  to them.

Does not decide who is let in at all: admission does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Action = Literal["call", "see", "publish", "deploy", "administer"]
EVERYBODY = "*"


class Caller(NamedTuple):
    """Who asks. ``groups`` is None where they could not be asked for.

    ``linked`` are the ids, ``linked_names`` the user names of the identities that are the same person's.
    """

    name: str = ""
    id: str = ""
    domain: str = ""
    groups: frozenset[str] | None = frozenset()
    linked: frozenset[str] = frozenset()
    linked_names: frozenset[str] = frozenset()

    @property
    def principal(self) -> str:
        """The rule that names this identity and no other: what an owner is known by."""
        return f"id:{self.id}" if self.id else f"user:{self.name}"


class Rules(NamedTuple):
    """One list."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class Policy(NamedTuple):
    """A site's lists."""

    call: Rules = Rules()
    publish: Rules = Rules()
    deploy: Rules = Rules()
    administer: Rules = Rules()


ALL = Rules((EVERYBODY,))
OPEN = Policy(ALL, ALL, ALL, ALL)
"""Everybody who was let in may do everything."""


class Service(NamedTuple):
    """The service as a whole, and what is not there yet."""


class Servable(NamedTuple):
    """A servable's name. Without an ``owner`` it is the administrators'. ``visible_to``: rules; none: the owner's."""

    owner: str = ""
    visible_to: tuple[str, ...] = (EVERYBODY,)


class Deployment(NamedTuple):
    """A deployment: whose it is, and what it serves. Who may call it, its servable says."""

    owner: str = ""
    servable: Servable = Servable()


Thing = Service | Servable | Deployment


class Decision(NamedTuple):
    """What was decided, ``by`` which rule; and why, in words for the caller, if it was denied."""

    allowed: bool
    by: str
    reason: str = ""


def decide(policy: Policy, caller: Caller, action: Action, thing: Thing) -> Decision:
    """Whether the caller may do this to the thing.

    *call* and *see*: a servable, a deployment. *publish*: the service (a new name), or a servable (a further version).
    *deploy*: a servable. *administer*: the service, or the servable or deployment that is to be changed.
    """
    listed = "call" if action == "see" else action
    denied = _denied(policy, caller, listed)
    if denied is None and action == "deploy":  # who does not see it does not deploy it, an administrator neither
        seen = decide(policy, caller, "see", thing)
        denied = None if seen.allowed else seen
    if denied is not None:
        return denied
    judge = _DECIDE.get(action)
    decision = _named(policy, caller, action) if judge is None else judge(policy, caller, thing)
    if decision.allowed:
        return decision
    administrator = _administers(policy, caller)
    return decision if administrator is None else Decision(allowed=True, by=administrator)


def is_named(policy: Policy, caller: Caller) -> bool:
    """Whether any list lets the caller do anything; owners may change what is theirs all the same."""
    return any(
        _denied(policy, caller, listed) is None and _match(caller, getattr(policy, listed).allow) is not None
        for listed in Policy._fields
    )


def everybody_administers(policy: Policy) -> bool:
    """Whether all are administrators, so that nothing is hidden from anybody."""
    return EVERYBODY in policy.administer.allow and not policy.administer.deny


def _call(policy: Policy, caller: Caller, thing: Thing) -> Decision:
    if _owns(caller, _servable(thing)):
        return Decision(allowed=True, by="owner")
    visible = _visible(caller, thing)
    if visible is None:
        return _HIDDEN
    return _named(policy, caller, "call", f", visible_to {visible}")


def _see(policy: Policy, caller: Caller, thing: Thing) -> Decision:
    if _owns(caller, thing) or _owns(caller, _servable(thing)):
        return Decision(allowed=True, by="owner")
    visible = _visible(caller, thing)
    if visible is None:
        return _HIDDEN
    for listed in ("call", "publish", "deploy"):
        decision = _denied(policy, caller, listed) or _named(policy, caller, listed, f", visible_to {visible}")
        if decision.allowed:
            return decision
    return decision


def _publish(policy: Policy, caller: Caller, thing: Thing) -> Decision:
    if not isinstance(thing, Service) and not _owns(caller, thing):
        return _OF_ANOTHER
    return _named(policy, caller, "publish")


def _administer(policy: Policy, caller: Caller, thing: Thing) -> Decision:
    if isinstance(thing, Service):
        return _named(policy, caller, "administer")
    return Decision(allowed=True, by="owner") if _owns(caller, thing) else _OF_ANOTHER


_DECIDE = {"call": _call, "see": _see, "publish": _publish, "administer": _administer}
_HIDDEN = Decision(allowed=False, by="visible_to", reason="it is not visible to you")
_OF_ANOTHER = Decision(allowed=False, by="owner", reason="only its owner and administrators may")


def _servable(thing: Thing) -> Thing:
    return thing.servable if isinstance(thing, Deployment) else thing


def _owns(caller: Caller, thing: Thing) -> bool:
    return not isinstance(thing, Service) and bool(thing.owner) and thing.owner == caller.principal


def _visible(caller: Caller, thing: Thing) -> str | None:
    """The rule by which the caller sees it; None: there is none."""
    servable = _servable(thing)
    return _match(caller, servable.visible_to) if isinstance(servable, Servable) else EVERYBODY


def _named(policy: Policy, caller: Caller, listed: str, further: str = "") -> Decision:
    rules: Rules = getattr(policy, listed)
    rule = _match(caller, rules.allow)
    if rule is not None:
        return Decision(allowed=True, by=f"access.{listed}.allow {rule}{further}")
    depends = caller.groups is None and any(map(names_group, rules.allow))
    unknown = "; your groups cannot be asked for at present" if depends else ""
    reason = f"the site's [access] {listed}.allow does not name you{unknown}"
    return Decision(allowed=False, by=f"access.{listed}.allow", reason=reason)


def _administers(policy: Policy, caller: Caller) -> str | None:
    """The rule that makes the caller an administrator."""
    if _denied(policy, caller, "administer") is not None:
        return None
    rule = _match(caller, policy.administer.allow)
    return None if rule is None else f"access.administer.allow {rule}"


def _denied(policy: Policy, caller: Caller, listed: str) -> Decision | None:
    rules: Rules = getattr(policy, listed)
    for rule in rules.deny:
        if caller.groups is None and names_group(rule):
            reason = f"the site's [access] {listed}.deny names a group, and your groups cannot be asked for at present"
            return Decision(allowed=False, by=f"access.{listed}.deny {rule}", reason=reason)
        if _names(rule, caller) or any(_names(rule, other) for other in _others(caller)):
            reason = f"the site's [access] {listed}.deny names {rule}"
            return Decision(allowed=False, by=f"access.{listed}.deny {rule}", reason=reason)
    return None


def _others(caller: Caller) -> Iterator[Caller]:
    """The identities that the caller has linked, as far as they are known."""
    for each in caller.linked:
        yield Caller(id=each)
    for name in caller.linked_names:
        yield Caller(name, caller.id, name.rpartition("@")[2].lower())


def _match(caller: Caller, rules: Iterable[str]) -> str | None:
    return next((rule for rule in rules if _names(rule, caller)), None)


def names_group(rule: str) -> bool:
    """Whether a rule is about a group."""
    return rule.startswith("group:")


def _names(rule: str, caller: Caller) -> bool:
    kind, _, value = rule.partition(":")
    if rule == EVERYBODY:
        return True
    if not value:
        return False
    if kind == "group":
        return caller.groups is not None and value in caller.groups
    if kind == "user" and caller.id:  # with Globus Ada@lab.gov is ada@lab.gov
        return value.lower() == caller.name.lower()
    known = {"user": caller.name, "id": caller.id, "domain": caller.domain}
    return known.get(kind) == value
