"""The order of a deployment's queue."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.ledger import Entry, State
from hpcserve.core.queue import LEFTOVERS, RequestQueue
from hpcserve.core.sessions import Session
from hpcserve.types import Counter, SessionId

FOREVER = float("inf")


SESSIONS = [Session(SessionId(bytes([number] * 16))) for number in range(4)]


def queued(
    place: int, priority: int = 0, deadline: float = FOREVER, *, suspect: bool = False, session: int = 0
) -> Entry:
    entry = Entry(SESSIONS[session], Counter(place), State.QUEUED)
    entry.place, entry.priority, entry.deadline = place, priority, deadline
    entry.suspect, entry.size_bytes = suspect, 1 + place
    return entry


def filled(entries: Iterable[Entry]) -> RequestQueue:
    queue = RequestQueue()
    for entry in entries:
        queue.push(entry)
    return queue


def leave(queue: RequestQueue, entry: Entry, state: State = State.RUNNING) -> None:
    entry.state = state
    queue.drop(entry)


def test_priority_goes_before_deadline_and_deadline_before_arrival() -> None:
    late = queued(1)
    soon = queued(2, deadline=5.0)
    sooner = queued(3, deadline=4.0)
    urgent = queued(4, priority=1)
    other = queued(5)
    queue = filled([late, soon, sooner, urgent, other])
    order = []
    while (entry := queue.peek()) is not None:
        order.append(entry)
        leave(queue, entry)
    assert order == [urgent, sooner, soon, late, other]


def test_suspects_stand_apart() -> None:
    plain, suspect = queued(1), queued(2, suspect=True)
    queue = filled([plain, suspect])
    assert queue.peek_suspect() is suspect
    leave(queue, suspect)
    assert queue.peek_suspect() is None
    assert queue.peek() is plain


def test_what_comes_back_has_its_old_place() -> None:
    first, second = queued(1), queued(2)
    queue = filled([first, second])
    leave(queue, first)
    first.state = State.QUEUED
    queue.push(first)
    assert queue.peek() is first
    assert queue.count == 2
    assert sorted(each.place for each in queue.all()) == [1, 2]


def test_expired_requests_are_named_once() -> None:
    entry, later = queued(1, deadline=5.0), queued(2, deadline=9.0)
    queue = filled([entry, later])
    leave(queue, entry)
    entry.state = State.QUEUED
    queue.push(entry)  # its deadline is noted twice now
    assert queue.next_deadline() == 5.0
    assert queue.expired(4.9) == []
    assert queue.expired(5.0) == [entry]
    assert queue.next_deadline() == 9.0


def test_a_request_that_came_back_with_another_deadline_expires_by_that() -> None:
    entry = queued(1, deadline=5.0)
    queue = filled([entry])
    other = queued(2)
    queue.push(other)
    leave(queue, entry)
    entry.state, entry.deadline = State.QUEUED, 9.0
    queue.push(entry)
    assert queue.expired(6.0) == []
    assert queue.expired(9.0) == [entry]


def test_a_queue_that_never_empties_does_not_grow() -> None:
    backlog = [queued(place, deadline=1e9) for place in range(10)]
    queue = filled(backlog)
    for place in range(10, 5000):
        entry = queued(place, deadline=1e9)
        queue.push(entry)
        backlog.append(entry)
        leave(queue, backlog.pop(0))
    assert {id(each) for each in queue.all()} == {id(each) for each in backlog}
    assert len(queue._deadlines) <= 2 * len(backlog) + LEFTOVERS + 1
    assert queue._items <= 2 * len(backlog) + LEFTOVERS + 1


def given_in_order(queue: RequestQueue, most: int = 1_000_000) -> list[Entry]:
    order: list[Entry] = []
    while len(order) < most and (entry := queue.peek()) is not None:
        order.append(entry)
        leave(queue, entry)
    return order


def test_a_session_with_many_requests_does_not_hold_up_one_with_few() -> None:
    many = [queued(place, session=1) for place in range(10_000)]
    few = [queued(10_000 + place, session=2) for place in range(3)]
    queue = filled(many)
    for entry in few:
        queue.push(entry)
    assert given_in_order(queue, 8) == [many[0], few[0], many[1], few[1], many[2], few[2], many[3], many[4]]


def test_sessions_take_turns_within_a_priority_alone() -> None:
    low = [queued(place, session=place % 2) for place in range(4)]
    high = [queued(10 + place, priority=1, session=2) for place in range(3)]
    assert given_in_order(filled([*low, *high])) == [*high, *low]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.sampled_from([1.0, 2.0, FOREVER])), max_size=60))
def test_who_waits_is_served_in_every_round(requests: list[tuple[int, int, float]]) -> None:
    entries = [
        queued(place, priority, deadline, session=session)
        for place, (session, priority, deadline) in enumerate(requests)
    ]
    order = given_in_order(filled(entries))
    assert sorted(each.place for each in order) == list(range(len(entries)))
    assert [each.priority for each in order] == sorted((each.priority for each in order), reverse=True)
    for priority in (0, 1):
        for session in SESSIONS:
            own = [each for each in order if each.priority == priority and each.session is session]
            assert own == sorted(own, key=lambda each: (each.deadline, each.place))
            turns = [at for at, each in enumerate(order) if each in own]
            assert all(after - before <= len(SESSIONS) for before, after in itertools.pairwise(turns))


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"),
            st.integers(-2, 2),
            st.sampled_from([1.0, 2.0, 3.0, FOREVER]),
            st.booleans(),
        ),
        st.tuples(st.sampled_from(["give", "suspect", "cancel", "return", "expire"]), st.integers(0, 30)),
    ),
    max_size=300,
)


@given(steps)
def test_the_queue_is_a_sorted_list(steps: list[tuple[str, int, float, bool] | tuple[str, int]]) -> None:
    queue = RequestQueue()
    model: list[Entry] = []
    away: list[Entry] = []

    def gone(entry: Entry) -> None:
        model.remove(entry)
        away.append(entry)
        leave(queue, entry)

    def first(*, suspect: bool) -> Entry | None:
        fitting = [each for each in model if each.suspect == suspect]
        return min(fitting, key=lambda each: (-each.priority, each.deadline, each.place), default=None)

    for place, step in enumerate(steps):
        if len(step) == 4:
            _, priority, deadline, suspect = step
            entry = queued(place, priority, deadline, suspect=suspect)
            queue.push(entry)
            model.append(entry)
        elif step[0] in ("give", "suspect"):
            suspect = step[0] == "suspect"
            next_one = queue.peek_suspect() if suspect else queue.peek()
            assert next_one is first(suspect=suspect)
            if next_one is not None:
                gone(next_one)
        elif step[0] == "cancel" and model:
            gone(model[step[1] % len(model)])
        elif step[0] == "return" and away:
            entry = away.pop(step[1] % len(away))
            entry.state = State.QUEUED
            entry.suspect = entry.suspect or bool(step[1] % 2)
            queue.push(entry)
            model.append(entry)
        elif step[0] == "expire":
            now = float(step[1] % 4)
            over = queue.expired(now)
            assert {id(each) for each in over} == {id(each) for each in model if each.deadline <= now}
            for entry in over:
                gone(entry)
        assert queue.count == len(model)
        assert queue.bytes == sum(each.size_bytes for each in model)
        for priority in range(-2, 3):
            higher = sum(each.priority > priority for each in model)
            equal = [each.size_bytes for each in model if each.priority >= priority]
            requests, size_bytes = queue.before(SESSIONS[0], priority)
            assert (requests, size_bytes) == (len(equal), sum(equal)) or any(each.suspect for each in model)
            assert higher <= queue.before(SESSIONS[1], priority)[0] <= min(higher + 1, len(equal))
        assert queue.next_deadline() == min((each.deadline for each in model), default=FOREVER)
        assert {id(each) for each in queue.all()} == {id(each) for each in model}
