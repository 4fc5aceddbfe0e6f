"""The recovery table: complete, and free of rules that would break the books."""

from __future__ import annotations

import pytest

from hpcserve.core.ledger import EMBODIED, RULES, TABLE, UNFINISHED, Effect, Event, State

S, E, F = State, Event, Effect

GONE = {S.ABSENT, S.SETTLED}
"""States of a request that has no entry."""

PLACED = {S.RUNNING, S.HELD, S.KEPT, S.DONE, S.ABANDONED, S.STRAY}
"""States in which the entry names a replica."""

OF_HOLDER = {E.UNLISTED, E.LOST, E.BURNED, E.CONVICTED}
"""Events that only the replica of the entry can bring about."""

# A message that came twice or late, and changes nothing.
HARMLESS: dict[State, set[Event]] = {
    S.ABSENT: set(),
    S.SETTLED: {E.ACKED},
    S.SOUGHT: {E.REQUEST, E.RESUMED},
    S.WANTED: {E.RECOVERED},
    S.QUEUED: {E.REQUEST, E.RESUMED},
    S.RUNNING: {E.REQUEST, E.RESUMED, E.LISTED},
    S.HELD: {E.REQUEST, E.LISTED},
    S.KEPT: {E.REQUEST, E.LISTED},
    S.DONE: {E.REQUEST, E.ANSWERED, E.PARKED, E.LISTED, E.LISTED_DONE},
    S.LEFT: {E.REQUEST},
    S.FAILED: {E.REQUEST},
    S.ABANDONED: {E.REQUEST, E.ACKED},
    S.STRAY: {E.ANSWERED, E.PARKED, E.LISTED, E.LISTED_DONE},
}


def cannot_be(state: State, event: Event) -> bool:
    """Pairs that the exchange never brings together."""
    if event in OF_HOLDER | {E.OTHER_ANSWERED, E.OTHER_LISTED} and state not in PLACED:
        return not (state is S.QUEUED and event is E.BURNED)
    if event is E.GIVEN:
        return state is not S.QUEUED
    if event is E.REFUSED:
        return state not in (S.QUEUED, S.WANTED)
    if event is E.RECOVERED:
        return state not in (S.SOUGHT, S.WANTED)
    if state is S.ABSENT:
        # A RESUME or a request comes from a session that has resumed; what it may send is not acknowledged.
        return event in (E.REQUEST, E.RESUMED, E.ACKED, E.PARKED)
    if state in (S.DONE, S.STRAY) and event is E.BURNED:
        return True  # its answer is with the client, or nobody has said that it must not run twice
    if state in (S.KEPT, S.DONE, S.STRAY) and event is E.CONVICTED:
        return True  # it does not run
    return state is S.STRAY and event is E.REQUEST


@pytest.mark.parametrize("state", State)
def test_every_pair_has_a_rule_or_a_reason(state: State) -> None:
    for event in Event:
        reasons = ((state, event) in TABLE, event in HARMLESS[state], cannot_be(state, event))
        assert sum(reasons) == 1, (state, event, reasons)


def test_the_rules_by_index_are_the_table() -> None:
    for state in State:
        for event in Event:
            assert RULES[state][event] == TABLE.get((state, event))


@pytest.mark.parametrize(("pair", "rule"), TABLE.items())
def test_a_rule_keeps_the_books_whole(pair: tuple[State, Event], rule: tuple[State, tuple[Effect, ...]]) -> None:
    (old, event), (new, effects) = pair, rule
    assert len(set(effects)) == len(effects)
    assert (F.ENQUEUE in effects) == (new is S.QUEUED and old is not S.QUEUED)
    assert (F.DEQUEUE in effects) == (old is S.QUEUED and new is not S.QUEUED)
    assert (F.FORGET in effects) == (new in GONE)
    # Who holds it: taken up, let go of or changed exactly where the states say so.
    if new in PLACED:
        assert (F.ADOPT in effects) == (old not in PLACED or F.LET_GO in effects)
    else:
        assert F.ADOPT not in effects
        assert (F.LET_GO in effects or F.FORGET in effects) == (old in PLACED or new in GONE)
    # What goes to the client.
    assert (F.FORWARD in effects) <= (event in (E.ANSWERED, E.OTHER_ANSWERED) and new is S.DONE)
    assert (F.PARK in effects) == (event is E.PARKED and new is S.KEPT)
    assert (F.ASK in effects) == (new is S.WANTED)
    assert (F.TELL in effects) == (new is S.FAILED and (old is not S.FAILED or event is E.RESUMED))


@pytest.mark.parametrize(("pair", "rule"), TABLE.items())
def test_effects_stand_in_an_order_that_works(
    pair: tuple[State, Event], rule: tuple[State, tuple[Effect, ...]]
) -> None:
    place = {effect: index for index, effect in enumerate(rule[1])}
    earlier_first = [
        (F.DEQUEUE, F.ADOPT),  # the queue counts the entry as it was
        (F.RELEASE_HOLDER, F.LET_GO),
        (F.LET_GO, F.ADOPT),
        (F.LET_GO, F.ENQUEUE),
        (F.LET_GO, F.ASK),
        (F.ADOPT, F.FORWARD),
        (F.ADOPT, F.FETCH),
        (F.RELEASE_HOLDER, F.FORGET),
    ]
    for first, second in earlier_first:
        if first in place and second in place:
            assert place[first] < place[second], (pair, first, second)
    if F.FORGET in place:
        assert place[F.FORGET] == len(place) - 1
    for needs_holder in (F.FETCH, F.RELEASE_HOLDER):
        assert needs_holder not in place or pair[0] in PLACED or F.ADOPT in place


def test_every_state_can_be_reached() -> None:
    reached = set(GONE)
    while True:
        more = {new for (old, _), (new, _) in TABLE.items() if old in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == set(State)


@pytest.mark.parametrize("state", [state for state in State if state not in GONE])
def test_an_acknowledgement_ends_every_request(state: State) -> None:
    """At once, or when the replica that works on it has let go."""
    if state is S.ABANDONED:
        ends = [TABLE[state, event][0] for event in (E.ANSWERED, E.PARKED, E.LISTED_DONE, E.UNLISTED, E.LOST)]
        assert ends == [S.SETTLED] * 5
    else:
        assert TABLE[state, E.ACKED][0] in GONE | {S.ABANDONED}


@pytest.mark.parametrize("state", sorted(PLACED))
def test_a_dead_replica_holds_nothing(state: State) -> None:
    for event in OF_HOLDER:
        rule = TABLE.get((state, event))
        assert rule is None or rule[0] not in PLACED


def test_a_client_that_resumes_has_nothing_settled_or_abandoned() -> None:
    """Whatever is known of the request, RESUME leads to where an answer is on its way."""
    for state in State:
        rule = TABLE.get((state, E.RESUMED))
        new = state if rule is None else rule[0]
        assert new not in {S.SETTLED, S.ABANDONED, S.STRAY, S.DONE, S.LEFT} or state is S.ABSENT


def test_a_body_is_kept_only_where_the_request_may_be_given_again() -> None:
    assert {state for state in State if EMBODIED[state]} == {S.QUEUED, S.RUNNING}
    assert {state for state in State if UNFINISHED[state]} == {S.RUNNING, S.HELD, S.ABANDONED}
