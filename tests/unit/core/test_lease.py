"""The lease's decision, by table; and that two who follow it never both hold."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.lease import (
    LONGEST_GAP_S,
    Decision,
    Foreign,
    Held,
    Lease,
    Sighting,
    Take,
    Watch,
    broker_epoch,
    decide,
    lease_epoch,
    lost,
    watched,
)

LEASE = Lease(host="h", boot="b", namespace="n", pid=7, started="1", since_s=0, renewed_s=0, lease_s=15)
SERVICE = "ours"
OTHERS = msgspec.structs.replace(LEASE, service="theirs")
RELEASED = msgspec.structs.replace(LEASE, released=True)


def seen(lease: Lease | None, **fields: Any) -> Sighting:
    known: dict[str, Any] = {"epoch": 4, "lives": None, "renewed": False, "unchanged_s": 0.0, "age_s": 1.0}
    return Sighting(lease=lease, **(known | fields))


def decided(sighting: Sighting | None, *, last_epoch: int = 0) -> Decision:
    return decide(sighting, last_epoch=last_epoch, lease_s=20, service=SERVICE)


@pytest.mark.parametrize(
    ("sighting", "decision"),
    [
        (None, Take(1)),
        (seen(RELEASED), Take(5)),
        (seen(RELEASED, lives=True), Take(5)),
        (seen(LEASE, lives=False), Take(5)),
        (seen(LEASE, lives=True), Held(LEASE)),
        (seen(LEASE, lives=True, unchanged_s=99, age_s=9e9), Held(LEASE)),
        (seen(LEASE), Watch(15)),
        (seen(LEASE, unchanged_s=10), Watch(5)),
        (seen(LEASE, unchanged_s=15), Take(5)),
        (seen(LEASE, renewed=True), Held(LEASE)),
        (seen(LEASE, age_s=100), Watch(15)),
        (seen(LEASE, age_s=9e9), Watch(15)),
        (seen(LEASE, age_s=9e9, unchanged_s=15), Take(5)),
        (seen(LEASE, age_s=-500), Watch(15)),
        (seen(None), Watch(20)),
        (seen(None, unchanged_s=20), Take(5)),
        (seen(None, renewed=True), Held(None)),
    ],
)
def test_the_table(sighting: Sighting | None, decision: Decision) -> None:
    assert decided(sighting) == decision


@pytest.mark.parametrize(
    ("fields", "decision"),
    [
        ({"lives": True}, Held(OTHERS)),
        ({"renewed": True}, Held(OTHERS)),
        ({}, Watch(15)),
        ({"unchanged_s": 15}, Foreign(OTHERS)),
        ({"lives": False}, Foreign(OTHERS)),
        ({"age_s": 9e9}, Watch(15)),
    ],
)
def test_the_lease_of_another_state_directory_is_never_taken(fields: dict[str, Any], decision: Decision) -> None:
    assert decided(seen(OTHERS, **fields)) == decision
    ours = msgspec.structs.replace(OTHERS, service=SERVICE)
    assert isinstance(decided(seen(ours, **fields)), Take) is isinstance(decision, Foreign)


def test_an_epoch_is_not_used_again_after_a_purge() -> None:
    assert decided(None, last_epoch=9) == Take(10)
    assert decided(seen(RELEASED), last_epoch=9) == Take(10)


@pytest.mark.parametrize(("greatest", "is_lost"), [(None, False), (3, False), (4, False), (5, True)])
def test_only_a_greater_epoch_ends_a_holder(greatest: int | None, *, is_lost: bool) -> None:
    assert lost(4, greatest) is is_lost


def test_time_in_which_nobody_could_look_is_not_watched() -> None:
    watched_s = 0.0
    for gap_s in (0.5, 0.5, 60.0, 0.5):
        watched_s = watched(watched_s, gap_s)
    assert watched_s == 1.5 + LONGEST_GAP_S


@given(epoch=st.integers(1, 1 << 30), starts=st.integers(1, 1 << 10))
def test_the_epochs_of_brokers_grow_with_the_leases(epoch: int, starts: int) -> None:
    assert lease_epoch(broker_epoch(epoch, starts)) == epoch
    assert broker_epoch(epoch, starts) < broker_epoch(epoch, starts + 1) < broker_epoch(epoch + 1, 1)


@given(
    lease=st.none() | st.builds(msgspec.structs.replace, st.just(LEASE), lease_s=st.floats(1, 60)),
    lives=st.none() | st.booleans(),
    renewed=st.booleans(),
    unchanged_s=st.floats(0, 100),
    age_s=st.floats(-9e9, 9e9),
)
def test_a_lease_that_may_be_alive_is_never_taken(
    *, lease: Lease | None, lives: bool | None, renewed: bool, unchanged_s: float, age_s: float
) -> None:
    sighting = seen(lease, lives=lives, renewed=renewed, unchanged_s=unchanged_s, age_s=age_s)
    decision = decided(sighting)
    patience_s = 20 if lease is None else lease.lease_s
    if isinstance(decision, Take):
        assert (lease is not None and lives is False) or (not renewed and unchanged_s >= patience_s)
    if isinstance(decision, Watch):
        assert 0 < decision.for_s <= patience_s
