"""Who may do what: tables, and what holds for every policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.access import (
    OPEN,
    Action,
    Caller,
    Deployment,
    Policy,
    Rules,
    Servable,
    Service,
    Thing,
    decide,
    everybody_administers,
)

ADA, BOB, OPS = Caller("ada", id="a1"), Caller("bob", id="b1"), Caller("ops", id="o1")
POLICY = Policy(
    call=Rules(("user:ada", "user:bob", "group:g1"), ("user:eve", "id:e1", "user:Mal@evil.org")),
    publish=Rules(("user:ada",), ("domain:evil.org",)),
    deploy=Rules(("user:ada", "domain:anl.gov")),
    administer=Rules(("user:ops",)),
)
NAMES = frozenset({"ann@home", "mal@EVIL.org"})
PRIVATE = Servable("id:a1", ())
SHARED = Servable("id:a1", ("user:bob",))
PUBLIC = Servable("id:a1", ("*",))
NOBODYS = Servable()


@pytest.mark.parametrize(
    ("caller", "action", "thing", "decided"),
    [
        (ADA, "call", PRIVATE, (True, "owner")),
        (BOB, "call", PRIVATE, (False, "visible_to")),
        (OPS, "call", PRIVATE, (True, "access.administer.allow user:ops")),
        (BOB, "call", SHARED, (True, "access.call.allow user:bob, visible_to user:bob")),
        (BOB, "call", PUBLIC, (True, "access.call.allow user:bob, visible_to *")),
        (BOB, "call", Deployment("id:b1", PRIVATE), (False, "visible_to")),
        (BOB, "see", Deployment("id:b1", PRIVATE), (True, "owner")),
        (Caller("who"), "call", PUBLIC, (False, "access.call.allow")),
        (Caller("who"), "see", PUBLIC, (False, "access.deploy.allow")),
        (Caller("dan", domain="anl.gov"), "see", PUBLIC, (True, "access.deploy.allow domain:anl.gov, visible_to *")),
        (Caller("dan", domain="anl.gov"), "call", PUBLIC, (False, "access.call.allow")),
        (Caller("dan", domain="anl.gov"), "deploy", PUBLIC, (True, "access.deploy.allow domain:anl.gov")),
        (Caller("dan", domain="anl.gov"), "deploy", PRIVATE, (False, "visible_to")),
        (Caller("eve"), "call", PUBLIC, (False, "access.call.deny user:eve")),
        (Caller("eve"), "see", Servable("user:eve"), (False, "access.call.deny user:eve")),
        (Caller("ann", linked=frozenset({"e1"})), "call", PUBLIC, (False, "access.call.deny id:e1")),
        (Caller("ann", linked=frozenset({"a1"})), "call", PRIVATE, (False, "visible_to")),
        (Caller("ann@home", "a2", linked_names=NAMES), "call", PUBLIC, (False, "access.call.deny user:Mal@evil.org")),
        (
            Caller("ann@home", "a2", linked_names=NAMES),
            "publish",
            Service(),
            (False, "access.publish.deny domain:evil.org"),
        ),
        (Caller("MAL@evil.org", "m1"), "call", PUBLIC, (False, "access.call.deny user:Mal@evil.org")),
        (Caller("mal@evil.org"), "call", PUBLIC, (False, "access.call.allow")),
        (Caller("ann@home", "a2", linked_names=frozenset({"ada"})), "call", PUBLIC, (False, "access.call.allow")),
        (Caller("Ada", "a2"), "publish", Service(), (True, "access.publish.allow user:ada")),
        (Caller("Ada"), "publish", Service(), (False, "access.publish.allow")),
        (Caller("gus", groups=frozenset({"g1"})), "call", PUBLIC, (True, "access.call.allow group:g1, visible_to *")),
        (Caller("gus", groups=None), "call", PUBLIC, (False, "access.call.allow")),
        (ADA, "publish", Service(), (True, "access.publish.allow user:ada")),
        (BOB, "publish", Service(), (False, "access.publish.allow")),
        (ADA, "publish", PUBLIC, (True, "access.publish.allow user:ada")),
        (ADA, "publish", Servable("id:b1"), (False, "owner")),
        (BOB, "publish", Servable("id:b1"), (False, "access.publish.allow")),
        (ADA, "publish", NOBODYS, (False, "owner")),
        (OPS, "publish", NOBODYS, (True, "access.administer.allow user:ops")),
        (ADA, "administer", Deployment("id:a1"), (True, "owner")),
        (BOB, "administer", Deployment("id:a1"), (False, "owner")),
        (ADA, "administer", NOBODYS, (False, "owner")),
        (ADA, "administer", Service(), (False, "access.administer.allow")),
        (OPS, "administer", Service(), (True, "access.administer.allow user:ops")),
    ],
)
def test_who_may_do_what(caller: Caller, action: Action, thing: Thing, decided: tuple[bool, str]) -> None:
    decision = decide(POLICY, caller, action, thing)
    assert (decision.allowed, decision.by) == decided
    assert bool(decision.reason) is not decision.allowed


def test_a_deny_that_names_a_group_is_closed_when_groups_cannot_be_asked_for() -> None:
    policy = OPEN._replace(call=Rules(("*",), ("group:g1",)))
    assert decide(policy, Caller("ann"), "call", PUBLIC).allowed
    unknown = decide(policy, Caller("ann", groups=None), "call", PUBLIC)
    assert not unknown.allowed
    assert "cannot be asked for" in unknown.reason


def test_a_name_is_not_taken_for_an_identity() -> None:
    """An owner from the list of keys is nobody that logs in, even by the same name."""
    assert not decide(POLICY, Caller("ada", id="x9"), "call", Servable("user:ada", ())).allowed
    assert not decide(POLICY, Caller("id:a1"), "call", PRIVATE).allowed
    assert not decide(POLICY, Caller(""), "call", Servable("", ())).allowed


def test_everybody_administers_unless_somebody_is_kept_out() -> None:
    assert everybody_administers(OPEN)
    assert not everybody_administers(OPEN._replace(administer=Rules(("*",), ("user:eve",))))
    assert not everybody_administers(POLICY)


names = st.sampled_from(["ada", "bob", ""])
ids = st.sampled_from(["a1", "b1", ""])
domains = st.sampled_from(["anl.gov", "lbl.gov", ""])
groups = st.sampled_from(["g1", "g2"])
callers = st.builds(
    Caller,
    names,
    ids,
    domains,
    st.none() | st.frozensets(groups, max_size=2),
    st.frozensets(st.sampled_from(["a1", "b1"]), max_size=2),
)
rule = st.sampled_from(
    ["*", "user:ada", "user:bob", "id:a1", "id:b1", "domain:anl.gov", "domain:lbl.gov", "group:g1", "group:g2"]
)
rules = st.lists(rule, max_size=3).map(tuple)
lists = st.builds(Rules, rules, rules)
policies = st.builds(Policy, lists, lists, lists, lists)
owners = st.sampled_from(["", "id:a1", "id:b1", "user:ada"])
servables = st.builds(Servable, owners, rules)
things = st.one_of(servables, st.builds(Deployment, owners, servables))
actions = st.sampled_from(["call", "see", "publish", "deploy", "administer"])
names_of_lists = st.sampled_from(Policy._fields)


@given(policies, callers, actions, things, names_of_lists, rule)
def test_another_deny_never_allows_more(
    policy: Policy, caller: Caller, action: Action, thing: Thing, name: str, more: str
) -> None:
    had: Rules = getattr(policy, name)
    stricter = policy._replace(**{name: had._replace(deny=(*had.deny, more))})
    if decide(stricter, caller, action, thing).allowed:
        assert decide(policy, caller, action, thing).allowed


@given(policies, callers, actions, things, names_of_lists, rule)
def test_another_allow_never_allows_less_nor_overrides_a_deny(
    policy: Policy, caller: Caller, action: Action, thing: Thing, name: str, more: str
) -> None:
    had: Rules = getattr(policy, name)
    wider = policy._replace(**{name: had._replace(allow=(*had.allow, more))})
    before, after = decide(policy, caller, action, thing), decide(wider, caller, action, thing)
    if before.allowed:
        assert after.allowed
    if ".deny " in before.by and f"access.{'call' if action == 'see' else action}." in before.by:
        assert not after.allowed


@given(policies, callers, actions, things)
def test_unknown_groups_never_allow_more_than_known_ones(
    policy: Policy, caller: Caller, action: Action, thing: Thing
) -> None:
    if decide(policy, caller._replace(groups=None), action, thing).allowed:
        assert decide(policy, caller._replace(groups=frozenset()), action, thing).allowed


@given(policies, callers, things)
def test_who_may_call_or_deploy_sees(policy: Policy, caller: Caller, thing: Thing) -> None:
    if decide(policy, caller, "call", thing).allowed:
        assert decide(policy, caller, "see", thing).allowed
    if isinstance(thing, Servable) and decide(policy, caller, "deploy", thing).allowed:
        assert decide(policy, caller, "see", thing).allowed


@given(callers, actions, things)
def test_where_nobody_is_named_everything_goes_or_nothing(caller: Caller, action: Action, thing: Thing) -> None:
    assert decide(OPEN, caller, action, thing).allowed
    allowed = decide(Policy(), caller, action, thing)
    assert not allowed.allowed or allowed.by == "owner"
