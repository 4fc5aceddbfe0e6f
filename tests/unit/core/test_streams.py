"""The stations of a stream: each item once, in order, whatever happens between them."""

from __future__ import annotations

import itertools
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcserve.core.streams import (
    FEW,
    GAP_S,
    LONGEST_SILENCE_S,
    QUICK_S,
    REPEAT_S,
    SILENCE_S,
    Incoming,
    Outgoing,
    Pace,
    Relay,
    Repeats,
    Room,
)
from hpcserve.types import ReplicaId

HERE, THERE = ReplicaId("r-1"), ReplicaId("r-2")
LARGE = Room(1000, 1 << 30)


def incoming(room: Room = LARGE) -> Incoming:
    return Incoming(room, 0.0)


# --- the replica's end ------------------------------------------------------------------------------------------


def test_a_replica_keeps_what_was_not_taken() -> None:
    out = Outgoing[str](LARGE)
    for item in "abcd":
        out.add(item, 10)
    assert out.more(2) == 20
    assert (out.received, out.kept(), out.kept_bytes) == (2, ["c", "d"], 20)
    assert out.more(1) == 0  # late
    assert out.more(99) == 20  # more than there is
    assert (out.received, out.is_empty) == (4, True)


@pytest.mark.parametrize(
    ("room", "most"), [(Room(3, 1 << 30), 3), (Room(100, 25), 3), (Room(100, 1), 1), (Room(1, 1), 1)]
)
def test_no_more_is_out_than_the_reader_has_room_for(room: Room, most: int) -> None:
    out = Outgoing[int](room)
    while out.has_room:
        out.add(0, 10)
    assert out.next == most
    out.more(1)
    assert out.has_room


# --- the client's end -------------------------------------------------------------------------------------------


def test_what_came_before_is_left_out() -> None:
    end = incoming()
    assert end.take(0, [1, 1], HERE, 0.0) == 0
    assert end.take(0, [1, 1, 1], HERE, 0.0) == 2
    assert end.take(0, [1], HERE, 0.0) == 1
    assert end.next == 3


def test_what_does_not_follow_is_left_out_and_asked_for_at_once() -> None:
    end = incoming()
    end.take(0, [1], HERE, 0.0)
    assert not end.misses(0.0)
    assert end.take(2, [1, 1], HERE, 0.1) == 2
    assert end.next == 1
    assert end.misses(0.1)
    end.take(4, [1], HERE, 0.1 + GAP_S / 2)
    assert not end.misses(0.1 + GAP_S / 2)  # it was asked for a moment ago
    assert end.misses(0.1 + GAP_S)


def test_items_of_another_run_are_refused() -> None:
    end = incoming()
    assert end.take(0, [1], HERE, 0.0) == 0
    assert end.take(1, [1], THERE, 0.0) is None
    assert end.next == 1


def test_silence_is_asked_about_more_and_more_seldom() -> None:
    end, asked, now = incoming(), [], 0.0
    while now < 300:
        if end.misses(now):
            asked.append(now)
        now += 0.1
    assert asked[0] == pytest.approx(SILENCE_S, abs=0.11)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert all(after > before - 0.11 for before, after in itertools.pairwise(pauses))
    assert pauses[-1] == pytest.approx(LONGEST_SILENCE_S, abs=0.2)
    end.take(0, [1], HERE, now)
    for number in range(1, 10):
        end.take(number, [1], HERE, now)
    assert end.misses(now + SILENCE_S)  # and soon again, once much has come quickly


def test_a_slow_link_is_not_filled_with_what_is_asked_for_again() -> None:
    """Each item takes long, and fills the window; what is asked for again waits behind it."""
    takes_s, items, tick_s = 6.0, 9, 0.1
    end = incoming(Room(1, 1))
    link: deque[tuple[float, int]] = deque([(takes_s, 0)])
    free_at, now, asked = takes_s, 0.0, 0
    while end.taken < items and now < 1000:
        now += tick_s
        again = end.misses(now)
        if link and link[0][0] <= now:
            _, first = link.popleft()
            if end.take(first, [10], HERE, now) == 0:
                assert end.read(10)
                again = True
        if again:
            asked += 1
            free_at = max(free_at, now) + takes_s
            link.append((free_at, end.tell(now)))
    assert end.taken == items
    assert now < 2 * items * takes_s
    assert asked < 2 * items


def test_what_comes_twice_makes_no_one_impatient() -> None:
    end, now, asked = incoming(), 0.0, 0
    end.take(0, [1], HERE, 0.0)
    while now < 20:
        now += 0.1
        end.take(0, [1], HERE, now)
        asked += end.misses(now)
    assert asked == 0  # what is missing may be behind it
    while not end.misses(now):
        now += 0.1
    end.take(0, [1], HERE, now)
    assert not end.misses(now + SILENCE_S)


def test_one_gap_is_asked_about_more_and_more_seldom() -> None:
    end, now, asked = incoming(), 0.0, 0
    end.take(0, [1], HERE, 0.0)
    while now < 20:
        now += 0.01
        end.take(5, [1], HERE, now)
        asked += end.misses(now)
    assert 5 <= asked <= 10


@pytest.mark.parametrize("room", [Room(4, 1 << 30), Room(100, 40)])
def test_silence_means_nothing_while_the_window_is_full(room: Room) -> None:
    end = incoming(room)
    end.take(0, [10] * 4, HERE, 0.0)
    assert not end.misses(100.0)
    assert not end.read(10)
    assert end.read(10)
    assert end.tell(100.0) == 2
    assert end.misses(200.0)


def test_a_reader_is_to_hurry_where_there_is_no_room() -> None:
    end = incoming()
    end.take(0, [10] * 3, HERE, 0.0)
    assert end.take(3, [], HERE, 0.0) == 0
    assert not end.must_tell
    assert [end.read(10) for _ in range(3)] == [False, False, True]
    end.tell(0.0)
    assert not end.must_tell


# --- the broker's -----------------------------------------------------------------------------------------------


def test_the_broker_counts_what_is_on_its_way() -> None:
    relay = Relay()
    relay.send(0, 3, 30)
    relay.send(3, 2, 20)
    assert (relay.next, relay.out_bytes) == (5, 50)
    assert relay.more(2, 0.0) == 0  # a message is taken when its last item is
    assert relay.more(3, 0.0) == 30
    assert relay.more(3, 0.0, again=True) == 0  # it may still come
    assert relay.lose() == 20
    assert (relay.out_bytes, relay.next) == (0, 5)


def test_the_broker_passes_items_on_in_order_and_each_once() -> None:
    relay = Relay()
    relay.send(0, 3, 30)
    assert not relay.lets_pass(0, 3)
    assert not relay.is_held
    assert not relay.lets_pass(4, 1)
    assert relay.is_held
    assert relay.lets_pass(2, 2)
    assert relay.lets_pass(3, 0)  # the replica has no room
    relay.lose()
    assert relay.lets_pass(7, 1)


def test_the_broker_begins_anew_where_the_client_lacks_what_came_before() -> None:
    relay = Relay()
    relay.send(5, 2, 20)  # the first in this epoch
    assert relay.more(3, 0.0, again=True) == 20
    assert not relay.lets_pass(5, 1)
    assert relay.lets_pass(3, 1)
    relay.lose()
    relay.more(3, 0.0, again=True)
    assert not relay.lets_pass(4, 1)
    assert relay.lets_pass(3, 1)


def test_what_goes_once_more_to_be_safe_is_counted_twice() -> None:
    relay = Relay()
    passed, now = 0, 0.0
    while now < 1000:
        if relay.lets_pass(0, 1):
            relay.send(0, 1, 10)
            passed += 1
        relay.more(0, now, again=True)
        now += GAP_S
    assert 2 <= passed <= 6
    assert relay.out_bytes == 10 * passed


def test_a_replica_is_not_asked_again_while_what_it_was_asked_for_is_on_its_way() -> None:
    repeats = Repeats()
    repeats.came(0, 4)
    assert repeats.may_ask(3, 0.0, held=False)
    repeats.came(4, 2)  # it was under way before
    assert not any(repeats.may_ask(n, now, held=held) for n in (3, 5) for now in (0.0, 29.9) for held in (False, True))
    repeats.came(3, 1)
    assert repeats.may_ask(3, 29.9, held=False)
    assert repeats.may_ask(3, 60.0, held=False), "what was asked for never came"


def test_a_replica_is_not_asked_again_for_what_is_on_its_way_for_the_first_time() -> None:
    repeats = Repeats()
    assert repeats.may_ask(0, 0.0, held=False), "it may have been lost with the connection before"
    repeats.came(0, 1)
    for number in range(1, 200):
        assert not repeats.may_ask(number, number / 10, held=False)
        repeats.came(number, 1)
    assert repeats.may_ask(200, 30.0, held=False), "who knows"
    repeats.came(200, 1)
    assert repeats.may_ask(200, 30.1, held=True), "that was for nothing, and this is not"


def test_a_replica_is_asked_again_so_often_at_most_but_for_what_was_held_back() -> None:
    repeats = Repeats()
    repeats.came(0, 9)
    assert repeats.may_ask(3, 0.0, held=False)
    repeats.came(3, 6)
    assert not repeats.may_ask(4, REPEAT_S / 2, held=False)
    assert not repeats.may_ask(3, REPEAT_S / 2, held=True)
    assert repeats.may_ask(4, REPEAT_S / 2, held=True)
    repeats.came(4, 5)
    assert repeats.may_ask(4, 2 * REPEAT_S, held=False)


# --- pace -------------------------------------------------------------------------------------------------------


def test_only_the_items_of_a_quick_stream_wait_for_company() -> None:
    pace = Pace()
    assert not any(pace.made(QUICK_S / 10) for _ in range(FEW))
    assert pace.made(QUICK_S / 10)
    assert not pace.made(QUICK_S)
    assert not pace.made(QUICK_S / 10)


# --- all of them ------------------------------------------------------------------------------------------------

Steps = st.lists(
    st.sampled_from(
        [
            "make",
            "make",
            "make",
            "to_broker",
            "to_broker",
            "to_client",
            "to_client",
            "read",
            "to_replica",
            "lose",
            "double",
            "swap",
            "reconnect",
            "restart",
        ]
    ),
    max_size=200,
)


class World:
    """A replica, a broker with little room and a client, and what is on its way between them."""

    def __init__(self, room: Room, sizes: list[int]) -> None:
        self.room = room
        self.sizes = sizes
        self.now = 0.0
        self.out = Outgoing[int](room)
        self.end = incoming(room)
        self.relay = Relay()
        self.repeats = Repeats()
        self.link: deque[tuple[int, list[int]]] = deque()
        self.back: deque[tuple[int, bool]] = deque()
        self.down: deque[tuple[int, list[int]]] = deque()
        self.up: deque[tuple[int, bool]] = deque()
        self.buffer: deque[int] = deque()
        self.found: list[int] = []

    def make(self) -> None:
        out = self.out
        if out.next < len(self.sizes) and out.has_room:
            out.add(out.next, self.sizes[out.next])
            self.down.append((out.next - 1, [out.next - 1]))
        assert out.next - out.received <= self.room.items
        assert out.kept_bytes < self.room.size_bytes + max(self.sizes)

    def to_broker(self) -> None:
        """Down, the broker passes on what follows and has room; up, the client's word."""
        relay = self.relay
        if self.down:
            first, numbers = self.down.popleft()
            self.repeats.came(first, len(numbers))
            size_bytes = sum(self.sizes[number] for number in numbers)
            if relay.lets_pass(first, len(numbers)):
                if relay.out_bytes and relay.out_bytes + size_bytes > 2 * self.room.size_bytes:
                    relay.is_held = True
                else:
                    relay.send(first, len(numbers), size_bytes)
                    self.link.append((first, numbers))
        if self.back:
            received, again = self.back.popleft()
            held = relay.is_held
            relay.more(received, self.now, again=again)
            asks = (again or held) and self.repeats.may_ask(received, self.now, held=held)
            relay.is_held = held and not asks and not self.repeats.is_coming
            self.up.append((received, asks))

    def reconnect(self) -> None:
        """What is between broker and client is gone."""
        self.link.clear()
        self.back.clear()
        self.relay.lose()
        self.end.lost(self.now)

    def restart(self) -> None:
        """The broker is another one, which knows nothing."""
        self.down.clear()
        self.up.clear()
        self.relay, self.repeats = Relay(), Repeats()
        self.reconnect()

    def to_client(self) -> None:
        if self.link:
            first, numbers = self.link.popleft()
            known = self.end.take(first, [self.sizes[number] for number in numbers], HERE, self.now)
            assert known is not None
            self.buffer.extend(numbers[known:])
        assert len(self.buffer) <= self.room.items
        if self.end.misses(self.now):
            self.back.append((self.end.tell(self.now), True))

    def to_replica(self) -> None:
        if self.up:
            received, again = self.up.popleft()
            self.out.more(received)
            if again:
                self.down.append((self.out.received, self.out.kept()))

    def read(self) -> None:
        if self.buffer:
            number = self.buffer.popleft()
            self.found.append(number)
            if self.end.read(self.sizes[number]):
                self.back.append((self.end.tell(self.now), False))

    def lose(self) -> None:
        for way in (self.down, self.up):
            if way:
                way.popleft()

    def double(self) -> None:
        if self.down:
            self.down.append(self.down[0])
        if self.up:
            self.up.append(self.up[0])

    def swap(self) -> None:
        self.down.rotate(1)
        self.up.rotate(1)


@settings(max_examples=300)
@given(
    steps=Steps,
    items=st.integers(1, 8),
    size_bytes=st.integers(1, 60),
    sizes=st.lists(st.integers(1, 30), min_size=30, max_size=30),
)
def test_each_item_is_read_once_in_order(steps: list[str], items: int, size_bytes: int, sizes: list[int]) -> None:
    """Messages are lost, doubled and swapped behind the broker, and connections and brokers lost; all arrives."""
    world = World(Room(items, size_bytes), sizes)
    for step in steps:
        world.now += 0.05
        getattr(world, step)()
    for _ in range(2000):
        world.now += 0.5
        for each in (world.make, world.to_broker, world.to_client, world.read, world.to_broker, world.to_replica):
            each()
    assert world.found == list(range(len(sizes)))
