"""People, consents, tokens and policies of the stand-in, without HTTP."""

from __future__ import annotations

import pytest

from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Authentication, Dependent, Grant, Policy, Session
from hpcserve.testing.globus.scopes import parse
from hpcserve.testing.globus.world import World

COLLECTION = "22222222-2222-3333-4444-555555555555"


@pytest.fixture
def world() -> World:
    return World()


def test_one_provider_for_each_domain(world: World) -> None:
    ada, bob, eve = (world.add_person(name) for name in ("ada@lab.example", "bob@lab.example", "eve@evil.example"))
    assert ada.identity_provider == bob.identity_provider != eve.identity_provider
    assert (ada.domain, ada.name) == ("lab.example", "Ada")
    assert world.find_person("bob@lab.example") is world.find_person(bob.id) is bob
    assert world.find_person("nobody") is None


def test_links_go_all_ways(world: World) -> None:
    a, b, c = (world.add_person(f"{name}@lab.example") for name in "abc")
    world.link(a, b)
    world.link(b, c)
    assert all({person.id for person in world.identity_set(each.id)} == {a.id, b.id, c.id} for each in (a, b, c))
    assert world.identity_set(b.id)[0] is b


def test_a_consent_covers_what_the_scope_itself_needs_and_no_more(world: World) -> None:
    ada, app = world.add_person("ada@lab.example"), world.add_client("app")
    optional = Dependent(TRANSFER_ALL, optional=True)
    scope = world.add_scope(COLLECTION, dependents=[Dependent(GROUPS_VIEW), optional]).scope
    world.consent(ada.id, app.id, parse(scope))
    assert [each.way for each in world.consents] == [(scope,), (scope, GROUPS_VIEW)]
    world.consent(ada.id, app.id, parse(f"{scope}[{TRANSFER_ALL}]"), refresh=True)
    assert {each.way: each.allows_refresh for each in world.consents} == {
        (scope,): True,
        (scope, GROUPS_VIEW): True,
        (scope, TRANSFER_ALL): True,
    }


def test_a_token_is_worth_as_much_as_the_consents_on_its_way(world: World) -> None:
    ada, app = world.add_person("ada@lab.example"), world.add_client("app")
    data_access = world.add_scope(COLLECTION, "data_access").scope
    scope = world.add_scope(app.id, dependents=[Dependent(TRANSFER_ALL)]).scope
    world.consent(ada.id, app.id, parse(f"{scope}[{TRANSFER_ALL}[*{data_access}]]"))
    direct = world.issue(ada.id, app.id, [TRANSFER_ALL])
    handed_on = world.issue(ada.id, "service", [TRANSFER_ALL], grant=Grant(app.id, (scope,)))
    assert not world.consented(direct, TRANSFER_ALL, data_access)
    assert world.consented(handed_on, TRANSFER_ALL, data_access)
    world.withdraw(ada.id, scope=data_access)
    assert not world.consented(handed_on, TRANSFER_ALL, data_access)
    assert world.token(handed_on.value) is not None
    world.withdraw(ada.id, app.id)
    assert world.token(handed_on.value) is None
    assert world.token(direct.value) is not None


def test_a_token_is_active_between_its_times(world: World) -> None:
    ada, app = world.add_person("ada@lab.example"), world.add_client("app")
    world.lifetime_s = 10
    token = world.token_for(ada, app, TRANSFER_ALL)
    refresh = world.issue(ada.id, app.id, [TRANSFER_ALL], refresh=True)
    found = world.token(token.value)
    assert found == token
    assert found is not token
    assert world.token(refresh.value) is None
    assert world.token("") is None
    world.ahead_s += 10
    assert world.token(token.value) is None


def test_a_token_of_a_login_by_a_linked_identity(world: World) -> None:
    ada, other = world.add_person("ada@lab.example"), world.add_person("ada@site.example")
    world.link(ada, other)
    token = world.token_for(ada, world.add_client("app"), TRANSFER_ALL, mfa=True, by=other)
    assert token.sub == ada.id
    assert {name: login.with_mfa for name, login in token.session.authentications.items()} == {other.id: True}


def test_a_token_has_one_resource_server(world: World) -> None:
    ada, app = world.add_person("ada@lab.example"), world.add_client("app")
    for scopes in ([TRANSFER_ALL, GROUPS_VIEW], [], ["https://auth.globus.org/scopes/unheard/of"]):
        with pytest.raises(ValueError, match="one resource server"):
            world.issue(ada.id, app.id, scopes)


def test_a_session_of_a_token_does_not_change(world: World) -> None:
    ada = world.add_person("ada@lab.example")
    with pytest.raises(ValueError, match="nobody sits"):
        world.authenticate(ada)
    now = world.sign_in(ada)
    kept = now.copy()
    world.authenticate(ada, mfa=True)
    assert now.authentications[ada.id].with_mfa
    assert not kept.authentications[ada.id].with_mfa


@pytest.mark.parametrize(
    ("policy", "holds"),
    [
        (Policy("x", "anybody"), True),
        (Policy("x", "in", include=("lab.example",)), True),
        (Policy("x", "not in", include=("site.example",)), False),
        (Policy("x", "nobody", include=()), False),
        (Policy("x", "out", exclude=("lab.example",)), False),
        (Policy("x", "not out", exclude=("site.example",)), True),
        (Policy("x", "mfa", required_mfa=True), False),
        (Policy("x", "young enough", timeout_s=60), True),
        (Policy("x", "too old", timeout_s=59), False),
    ],
    ids=lambda value: value.name if isinstance(value, Policy) else None,
)
def test_what_a_policy_asks(policy: Policy, world: World, *, holds: bool) -> None:
    ada = world.add_person("ada@lab.example")
    session = Session("s", {ada.id: Authentication("idp", 1000.0, ("pwd",))})
    assert policy.holds(world.people, session, 1060.0) is holds


def test_one_login_has_to_satisfy_all_of_a_policy(world: World) -> None:
    ada, other = world.add_person("ada@lab.example"), world.add_person("ada@site.example")
    session = Session(
        "s", {ada.id: Authentication("a", 0.0, ("pwd",)), other.id: Authentication("b", 0.0, ("pwd", "mfa"))}
    )
    assert not Policy("x", "lab with mfa", include=("lab.example",), required_mfa=True).holds(world.people, session, 0)
    assert Policy("x", "site with mfa", include=("site.example",), required_mfa=True).holds(world.people, session, 0)
