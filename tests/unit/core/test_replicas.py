"""The choice of the replica for the next request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.lanes import Lane
from hpcserve.core.replicas import LeastLoaded, Replica
from hpcserve.types import Counter, DeploymentName, ReplicaId, SessionId


def replica(number: int = 0, *, credit: int = 4) -> Replica:
    made = Replica(ReplicaId(f"r{number}"), Lane(DeploymentName("echo")))
    made.connection, made.credit_requests, made.credit_bytes = b"there", credit, 100
    return made


@pytest.mark.parametrize(
    ("change", "has_credit"),
    [
        ({}, True),
        ({"connection": None}, False),
        ({"resting": True}, False),
        ({"exclusive": True}, False),
        ({"waiting": 3}, True),
        ({"waiting": 4}, False),
        ({"waiting": 1, "waiting_bytes": 99}, True),
        ({"waiting": 1, "waiting_bytes": 100}, False),
        ({"waiting": 0, "waiting_bytes": 0, "credit_bytes": 0}, True),
        ({"credit_requests": 0}, False),
    ],
)
def test_credit(change: dict[str, object], *, has_credit: bool) -> None:
    one = replica()
    for name, value in change.items():
        setattr(one, name, value)
    assert one.has_credit() is has_credit


def test_a_replica_that_wants_nothing_gets_no_urgent_request_either() -> None:
    one = replica(credit=0)
    assert not one.has_credit(urgent=True)
    one.credit_requests, one.waiting = 4, 11
    assert one.has_credit(urgent=True)
    one.waiting = 12
    assert not one.has_credit(urgent=True)


def test_of_urgent_requests_a_replica_with_large_batches_is_given_more() -> None:
    one = replica(credit=40)
    one.waiting = 59
    assert one.has_credit(urgent=True)
    one.waiting = 60
    assert not one.has_credit(urgent=True)


def test_releases_are_taken_once() -> None:
    one, key = replica(), (SessionId(bytes(16)), Counter(1))
    assert one.take_releases() == ()
    one.releases.append(key)
    assert one.take_releases() == (key,)
    assert one.take_releases() == ()


def test_equals_take_turns() -> None:
    load, all_of_them = LeastLoaded(), [replica(number) for number in range(3)]
    for one in all_of_them:
        load.update(one)
    order = []
    for _ in range(6):
        picked = load.pick()
        assert picked is not None
        order.append(picked.id)
        picked.waiting += 1
        load.update(picked)
    assert order == ["r0", "r1", "r2"] * 2


def test_only_an_idle_replica_is_picked_for_a_request_that_runs_alone() -> None:
    load, one = LeastLoaded(), replica()
    load.update(one)
    assert load.pick_idle() is one
    one.waiting = 1
    load.update(one)
    assert load.pick() is one
    assert load.pick_idle() is None


changes = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(["waiting", "credit_requests", "connection", "exclusive", "retiring", "discard", "pick"]),
        st.integers(0, 6),
    ),
    max_size=200,
)


@given(changes)
def test_the_least_loaded_is_found(changes: list[tuple[int, str, int]]) -> None:
    """Against a plain list: the least ``waiting`` of those with credit, the longest unchanged first."""
    load, replicas, model = LeastLoaded(), [replica(number) for number in range(5)], dict[Replica, int]()
    for number, what, value in changes:
        one = replicas[number]
        if what == "discard":
            load.discard(one)
            model.pop(one, None)
            continue
        if what in ("waiting", "credit_requests"):
            setattr(one, what, value)
        elif what == "connection":
            one.connection = b"there" if value % 2 else None
        elif what != "pick":
            setattr(one, what, bool(value % 2))
        load.update(one)
        if not one.has_credit():
            model.pop(one, None)
        elif model.get(one) != one.waiting:
            model.pop(one, None)
            model[one] = one.waiting  # a dictionary keeps the order in which they came to this load
        assert len(load) == len(model)
        expected = min(model, key=model.__getitem__, default=None)
        assert load.pick() is expected
        idle = expected if expected is not None and expected.waiting == 0 else None
        assert load.pick_idle() is idle
