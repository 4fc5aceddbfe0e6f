"""Which replica gives back how much of what it has not begun, and what becomes of it."""

from __future__ import annotations

import pytest

from hpcserve.core import actions as act
from hpcserve.core.batching import UNBATCHED, Inbox
from hpcserve.core.ledger import State
from hpcserve.core.sharing import SILENT_S
from hpcserve.types import ReplicaId, RequestKey
from tests.unit.core.exchange_desk import Desk


def loaded(count: int = 9, idle: int = 1) -> tuple[Desk, list[RequestKey]]:
    """One replica holds so many requests; others have come after they had been given out."""
    desk = Desk()
    desk.serve("a", credit=100)
    session = desk.client()
    keys = [desk.ask(session, id) for id in range(1, count + 1)]
    desk.took(act.Give)
    others = [f"idle-{number}" for number in range(idle)]
    desk.route("a", *others)
    for name in others:
        desk.inventory(name, credit=100)
    return desk, keys


def tick(desk: Desk, after_s: float = 0.0) -> list[tuple[str, int]]:
    """Time passes; returns who is asked to give back how many."""
    desk.now += after_s
    desk.exchange.tick(desk.now)
    return [(action.connection.decode(), action.most) for action in desk.took(act.GiveBack)]


@pytest.mark.parametrize(("count", "idle", "most"), [(9, 1, 4), (2, 1, 1), (10, 3, 7), (3, 9, 2)])
def test_a_replica_that_answers_nothing_gives_back_what_idle_ones_can_take(count: int, idle: int, most: int) -> None:
    desk, _ = loaded(count, idle)
    assert tick(desk) == []
    assert tick(desk, SILENT_S) == [("a", most)]
    assert tick(desk, 10 * SILENT_S) == [], "it is asked once"


def test_what_it_gives_back_goes_to_others_and_keeps_its_place() -> None:
    desk, keys = loaded(5)
    tick(desk)
    tick(desk, SILENT_S)
    desk.inventory("a", unfinished=tuple(keys[:3]), fence=5, credit=1)
    assert desk.given() == [("idle-0", 4), ("idle-0", 5)]
    assert desk.exchange.counts.requeued == 2
    assert desk.exchange.recovered


def test_one_that_answers_is_left_alone() -> None:
    desk, keys = loaded()
    for key in keys[:6]:
        assert tick(desk, SILENT_S / 2) == []
        desk.answer("a", key, credit=100)


def test_nothing_is_asked_back_while_nobody_is_idle_or_one_request_is_all_there_is() -> None:
    busy, _ = loaded(idle=0)
    assert [tick(busy, SILENT_S) for _ in range(3)] == [[], [], []]
    alone, _ = loaded(count=1)
    assert [tick(alone, SILENT_S) for _ in range(3)] == [[], [], []]


def test_a_suspect_that_runs_alone_is_not_asked_back() -> None:
    desk, _ = loaded(count=1, idle=0)
    desk.route("b", crashed="a")
    desk.inventory("b", credit=100)
    assert desk.replica("b").exclusive
    desk.route("b", "c")
    desk.inventory("c", credit=100)
    assert [tick(desk, SILENT_S) for _ in range(3)] == [[], [], []]


def test_a_replica_that_is_to_end_gives_back_everything_if_others_can_do_it() -> None:
    desk, keys = loaded(count=4, idle=0)
    desk.route("a", retiring="a", giving_back="a")
    assert [(action.connection, action.most) for action in desk.took(act.GiveBack)] == [(b"a", 4)]
    desk.inventory("a", unfinished=tuple(keys[:1]), fence=4, credit=100)
    assert desk.given() == []
    assert list(desk.states(desk.client("c", 1, 2, 3, 4)).values()) == [State.RUNNING, *[State.QUEUED] * 3]
    desk.route("a", "b", retiring="a", giving_back="a")
    desk.inventory("b", credit=100)
    assert desk.given() == [("b", 2), ("b", 3), ("b", 4)]


def test_one_whose_methods_no_other_has_keeps_what_it_holds() -> None:
    desk, _ = loaded(count=4, idle=0)
    desk.route("a", retiring="a")
    assert desk.took(act.GiveBack) == []


def test_an_inbox_gives_back_what_would_run_last() -> None:
    inbox: Inbox[str] = Inbox()
    tasks = [("x", 0), ("y", 0), ("urgent", 5), ("z", 0), ("kept", 0), ("in a batch", 0)]
    for name, priority in tasks:
        group = ("m", None, b"") if "batch" in name else UNBATCHED
        inbox.push(name, group, samples=1, priority=priority, deadline=float("inf"), now=0.0)
    assert inbox.give_back(3, lambda task: task != "kept") == ["in a batch", "z", "y"]
    assert len(inbox) == 3
    assert [inbox.take(UNBATCHED, 1)[0] for _ in range(3)] == [["urgent"], ["x"], ["kept"]]
    assert not inbox


def test_streams_that_have_begun_are_not_asked_for() -> None:
    desk, keys = loaded(3)
    for key in keys[:2]:
        desk.exchange.items(
            desk.exchange.replicas[ReplicaId("a")], key, first=0, count=1, body=b"", size_bytes=1, now=desk.now
        )
    tick(desk)
    assert tick(desk, SILENT_S) == []


@pytest.mark.parametrize(("calls", "streams", "most"), [(9, 3, 3), (5, 4, 0), (5, 6, 0)])
def test_a_replica_with_streams_only_is_given_what_another_has_not_begun(calls: int, streams: int, most: int) -> None:
    """As many as do not go back to where they came from."""
    desk, keys = loaded(calls, idle=0)
    desk.route("a", "b", retiring="a")
    desk.inventory("b", credit=100)
    session = desk.client("s")
    for id in range(1, streams + 1):
        key = desk.ask(session, id)
        desk.exchange.items(desk.replica("b"), key, first=0, count=1, body=b"", size_bytes=1, now=desk.now)
    desk.route("a", "b")
    desk.took(act.Give)
    assert tick(desk) == []
    assert tick(desk, SILENT_S) == ([("a", most)] if most else [])
    if most:
        desk.inventory("a", unfinished=tuple(keys[:-most]), fence=calls, credit=100)
        assert [name for name, _ in desk.given()] == ["b"] * most


def test_a_new_broker_asks_for_no_parked_streams_that_have_begun() -> None:
    desk = Desk()
    desk.route("a", "idle")
    session = desk.client("c", 1, 2, 3)
    keys = tuple((session.id, id) for id in session.entries)
    desk.inventory("a", unfinished=keys, yielded=(5, 5, 1), credit=100)
    desk.inventory("idle", credit=100)
    assert tick(desk) == []
    assert tick(desk, SILENT_S) == []
    assert desk.exchange.streams_at(desk.replica("a")) == 3
    desk.ack(session, 4)
    assert not desk.exchange.relays
