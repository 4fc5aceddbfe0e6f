"""Who may call which endpoint, at the broker."""

from __future__ import annotations

import pytest

from hpcserve.core import access
from hpcserve.core.access import Caller, Policy, Rules, Servable
from hpcserve.core.exchange import Exchange
from hpcserve.core.gate import Gate, recall, routes_changed
from hpcserve.core.ledger import State
from hpcserve.core.routes import Deployment, RoutingTable
from hpcserve.core.sessions import Session
from hpcserve.errors import PermissionDenied, ServiceUnavailable, UnknownEndpoint
from hpcserve.types import Counter, DeploymentName, EndpointName, SessionId
from tests.unit.core.exchange_desk import LIMITS, METHODS, NAME, Desk

POLICY = Policy(call=Rules(("user:ada", "user:bob")), deploy=Rules(("*",)), administer=Rules(("user:ops",)))


def table(**visible_to: tuple[str, ...]) -> RoutingTable:
    return RoutingTable(
        {EndpointName(name): DeploymentName(name) for name in visible_to},
        {
            DeploymentName(name): Deployment(
                DeploymentName(name),
                {"run": True},
                "run",
                (),
                access=access.Deployment("user:ada", Servable("user:ada", rules)),
            )
            for name, rules in visible_to.items()
        },
    )


def session(name: str) -> Session:
    made = Session(SessionId(name.encode()))
    recall(made, Caller(name))
    return made


def check(gate: Gate, caller: Session, endpoint: str, routes: RoutingTable, id: int = 1) -> None:
    gate.check(caller, Counter(id), endpoint, routes)


def test_what_may_not_be_seen_does_not_exist_and_is_not_named_to_others() -> None:
    gate, routes = Gate(POLICY), table(secret=(), public=("*",))
    with pytest.raises(UnknownEndpoint) as hidden:
        check(gate, session("bob"), "secret", routes)
    with pytest.raises(UnknownEndpoint) as missing:
        check(gate, session("bob"), "secret", table(public=("*",)))
    assert hidden.value.message == missing.value.message == "no endpoint 'secret'; known: public"
    check(gate, session("ada"), "secret", routes)


def test_whose_groups_are_not_known_is_not_told_what_exists_but_to_try_again() -> None:
    gate, routes, ann = (
        Gate(POLICY._replace(call=Rules(("*",)))),
        table(team=("group:g1",), public=("*",)),
        session("ann"),
    )
    recall(ann, Caller("ann", groups=None))
    check(gate, ann, "public", routes)
    told = set()
    for endpoint in ("team", "none"):
        with pytest.raises(ServiceUnavailable, match="in which groups you are") as caught:
            check(gate, ann, endpoint, routes)
        told.add(caught.value.message.replace(endpoint, ""))
    assert len(told) == 1, "whether it exists is not told"
    gate.groups_count = False
    with pytest.raises(UnknownEndpoint):  # nobody asks for groups: there is nothing to wait for
        check(gate, ann, "none", routes)
    recall(ann, Caller("ann", groups=frozenset({"g1"})))
    check(gate, ann, "team", routes)


def test_whom_no_list_names_is_told_that_and_not_whether_the_endpoint_exists() -> None:
    policy = POLICY._replace(deploy=Rules(("user:dan",)))
    told = set()
    for routes in (table(m=("*",)), table(), table(m=())):
        with pytest.raises(UnknownEndpoint, match=r"the site's \[access\] lets you do nothing here") as caught:
            check(Gate(policy), session("eve"), "m", routes)
        told.add(caught.value.message)
    assert len(told) == 1
    for name in ("bob", "dan", "ops"):
        with pytest.raises(UnknownEndpoint, match="there are none"):
            check(Gate(policy), session(name), "m", table())


def test_what_is_seen_and_may_not_be_called_says_which_list_decided() -> None:
    with pytest.raises(PermissionDenied, match=r"may not call endpoint 'public': .*\[access\] call.allow does not nam"):
        check(Gate(POLICY), session("eve"), "public", table(public=("*",)))


def test_a_decision_is_made_once_for_each_session_and_endpoint() -> None:
    gate, bob, routes = Gate(POLICY), session("bob"), table(public=("*",), secret=())
    for id in range(1, 4):
        check(gate, bob, "public", routes, id)
        with pytest.raises(UnknownEndpoint):
            check(gate, bob, "secret", routes, id)
    assert [(each.id, each.endpoint, each.decision.allowed) for each in gate.take()] == [
        (1, "public", True),
        (1, "secret", False),
    ]
    assert not gate.take()


def test_other_replicas_change_no_decision_and_another_visibility_does() -> None:
    gate, bob, before, after = Gate(POLICY), session("bob"), table(m=("*",)), table(m=())
    check(gate, bob, "m", before)
    routes_changed([bob], before, table(m=("*",)))
    check(gate, bob, "m", before)
    assert len(gate.take()) == 1
    routes_changed([bob], before, after)
    with pytest.raises(UnknownEndpoint):
        check(gate, bob, "m", after)
    assert len(gate.take()) == 1


def test_a_caller_who_has_left_a_group_is_judged_anew() -> None:
    gate, routes = Gate(POLICY._replace(call=Rules(("group:g1",)))), table(m=("*",))
    ann = Session(SessionId(b"ann"))
    recall(ann, Caller("ann", groups=frozenset({"g1"})))
    check(gate, ann, "m", routes)
    recall(ann, Caller("ann", groups=frozenset()))
    with pytest.raises(PermissionDenied):
        check(gate, ann, "m", routes)


def test_an_exchange_sends_a_denied_request_to_nobody() -> None:
    desk = Desk(Exchange(LIMITS, 0.0, POLICY))
    mine = access.Deployment("user:ada", Servable("user:ada", ()))
    desk.exchange.route({EndpointName("echo"): NAME}, [Deployment(NAME, METHODS, "run", (), access=mine)], now=desk.now)
    ada, bob = (
        desk.exchange.resume(
            SessionId(name.encode()),
            name.encode(),
            identity=name,
            caller=Caller(name),
            floor=1,
            outstanding=(),
            now=desk.now,
        )
        for name in ("ada", "bob")
    )
    desk.ask(ada, 1)
    desk.ask(bob, 1)
    assert desk.exchange.counts.refused == 1
    assert (ada.entries[Counter(1)].state, bob.entries.get(Counter(1))) == (State.QUEUED, None)
