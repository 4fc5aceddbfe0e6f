"""The items of one stream on their way, at its three stations: replica, broker, client.

Each item has a number, from 0. The reader tells cumulatively how many it has *taken*; the replica keeps each item until
then, and has no more of them out than the reader's window allows. So:

1. What was lost on the way, with a connection or a broker, is sent again when the reader says that it misses something.
2. What comes twice, or does not follow what is there, is left out: the reader sees each item once, in order.
3. A reader that does not read stops its producer, and holds no more than a window.
4. Items of two runs are never mixed: a reader that has taken some of one run refuses those of another.

Whose turn it is at the replica, and what travels in one message, is not decided here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from hpcserve.types import ReplicaId

ITEM_BYTES = 64
"""What an item counts besides its tensors, at each end."""

SILENCE_S, LONGEST_SILENCE_S = 1.0, 30.0
GAP_S = 0.1
REPEAT_S = GAP_S / 2  # who asks every GAP_S is not refused for the network's jitter
GAPS = 4  # so many times the longest pause between items of late is a silence
QUICK_S, FEW = 1e-3, 32

T = TypeVar("T")


class Pace:
    """Whether an item waits for the next, to travel with it.

    An item that waits goes when the next is there, which may be soon or never: so only those wait whose stream has
    been quick for a while. A stream that yields a few at a time, then computes, has them sent one by one.
    """

    def __init__(self) -> None:
        self._quick = 0

    def made(self, took_s: float) -> bool:
        """An item was made in so many seconds. Returns whether it may wait."""
        self._quick = self._quick + 1 if took_s < QUICK_S else 0
        return self._quick > FEW


class Room(NamedTuple):
    """What a reader is ready to hold: so many items, and so many bytes of them, or one item that has more."""

    items: int
    size_bytes: int


class Outgoing(Generic[T]):
    """The replica's end: the items that may have to be sent again."""

    def __init__(self, room: Room) -> None:
        self.next = 0
        self.kept_bytes = 0
        self._room = room
        self._kept: deque[tuple[T, int]] = deque()

    @property
    def received(self) -> int:
        """So many items the reader has taken."""
        return self.next - len(self._kept)

    @property
    def is_empty(self) -> bool:
        """Whether the reader has taken everything."""
        return not self._kept

    @property
    def has_room(self) -> bool:
        """Whether the reader is ready for one more."""
        kept = len(self._kept)
        return kept < self._room.items and (not kept or self.kept_bytes < self._room.size_bytes)

    def add(self, item: T, size_bytes: int) -> None:
        """One more item was made."""
        self.next += 1
        self.kept_bytes += size_bytes
        self._kept.append((item, size_bytes))

    def more(self, received: int) -> int:
        """The reader has taken all items below ``received``. Returns how many bytes are kept no longer."""
        before = self.kept_bytes
        while self._kept and self.received < received:
            self.kept_bytes -= self._kept.popleft()[1]
        return before - self.kept_bytes

    def kept(self) -> list[T]:
        """The items from :attr:`received` on."""
        return [item for item, _ in self._kept]


class Incoming:
    """The client's end: what has come, what the reader has taken of it, and what the replica has been told."""

    def __init__(self, room: Room, now: float) -> None:
        self.next = 0
        self.taken = 0
        self.source: ReplicaId | None = None
        self._room = room
        self._told = 0
        self._told_bytes = 0
        self._hurry = math.inf
        self._taken_bytes = 0
        self._came_bytes = 0
        self._ask_at = now + SILENCE_S
        self._patience_s = SILENCE_S
        self._may_ask_at = now
        self._pause_s = GAP_S
        self._waits_since = math.inf  # the first item may have waited in a queue
        self._gap_s = 0.0

    def take(self, first: int, sizes: Sequence[int], source: ReplicaId, now: float) -> int | None:
        """Items have come from a replica: the first one's number, and the bytes of each. None: it has no room for more.

        Returns:
            How many of them, from the front, are to be left out; None: they are of another run.
        """
        if self.source is None:
            self.source = source
        elif self.source != source:
            return None
        if not sizes:
            self._hurry = first
        if first > self.next:
            self._ask_at = max(now, self._may_ask_at)  # something is missing
            return len(sizes)
        known = min(self.next - first, len(sizes))
        if known < len(sizes):
            self._grow(first + len(sizes), now)
        self._ask_at = max(self._ask_at, now + self._patience_s)  # while something comes, more may be on its way
        self._came_bytes += sum(sizes[known:])
        return known

    def _grow(self, end: int, now: float) -> None:
        """Something new has come: so long it may take again. What comes twice says nothing of that."""
        self.next = end
        self._gap_s = min(max(now - self._waits_since, self._gap_s / 2, 0.0), LONGEST_SILENCE_S)
        self._waits_since = now
        self._patience_s = max(SILENCE_S, GAPS * self._gap_s)
        self._pause_s = GAP_S
        self._ask_at = now

    def read(self, size_bytes: int) -> bool:
        """The reader has taken an item. Returns whether the replica is to be told now, so that it never runs dry."""
        self.taken += 1
        self._taken_bytes += size_bytes
        return self.must_tell

    @property
    def must_tell(self) -> bool:
        """Whether the replica is to be told now: half of what there is room for was taken, or it waits for that."""
        return (
            self._hurry <= self.taken
            or 2 * (self.taken - self._told) >= self._room.items
            or 2 * (self._taken_bytes - self._told_bytes) >= self._room.size_bytes
        )

    def tell(self, now: float) -> int:
        """The replica is told now: returns how many items the reader has taken."""
        if self._is_full():
            self._waits_since = now
        self._told, self._told_bytes = self.taken, self._taken_bytes
        if self._hurry <= self.taken:
            self._hurry = math.inf
        self._ask_at = max(self._ask_at, now + self._patience_s)
        return self._told

    def misses(self, now: float) -> bool:
        """Whether the replica is to be asked for what may have been lost. The more often in vain, the more seldom."""
        if now < self._ask_at or self._is_full():
            return False
        self._patience_s = max(self._patience_s, min(LONGEST_SILENCE_S, 2 * self._patience_s))
        self._ask_at = now + self._patience_s
        self._may_ask_at = now + self._pause_s
        self._pause_s = min(LONGEST_SILENCE_S, 2 * self._pause_s)
        return True

    def lost(self, now: float) -> None:
        """What was on its way is gone with the connection, or the end has come before all the items."""
        self._patience_s = max(SILENCE_S, GAPS * self._gap_s)
        self._ask_at = max(now, self._may_ask_at)

    def _is_full(self) -> bool:
        """Whether all has come for which there is room, so that silence means nothing."""
        came, room = self.next - self._told, self._room
        return came >= room.items or (came > 0 and self._came_bytes - self._told_bytes >= room.size_bytes)


class Repeats:
    """Whether the broker passes it on that a client misses items: the replica sends all again that it keeps then.

    Not where the client has all that has come from the replica: what follows is on its way. Not while what was sent
    again the last time has not begun to come, since it will be of use now as well. And once in ``REPEAT_S`` at most.
    So no more than two windows wait at the replica to be sent again, however often a client asks. Only what was lost
    against all rules is asked for later, after ``LONGEST_SILENCE_S``.

    It is about one connection of the replica: with that everything on its way is lost, and this begins anew.

    ``is_coming``: what was asked for has not begun to come.
    """

    def __init__(self) -> None:
        self.is_coming = False
        self._seen: int | None = None
        self._received = -1
        self._asked_at = -math.inf

    def may_ask(self, received: int, now: float, *, held: bool) -> bool:
        """Whether the replica is to be asked now; ``held``: not for the client alone, but since items did not go on.

        A client that reads makes room for those, which need not wait.
        """
        has_all = self._seen is not None and received >= self._seen
        if has_all or self.is_coming:
            wait_s = LONGEST_SILENCE_S
        else:
            wait_s = 0.0 if held and received > self._received else REPEAT_S
        if now < self._asked_at + wait_s:
            return False
        self.is_coming, self._received, self._asked_at = not has_all, received, now
        return True

    def came(self, first: int, count: int) -> None:
        """Items have come from the replica. Those that were here before are what was asked for."""
        if self._seen is None or first < self._seen:
            self.is_coming = False
        self._seen = max(self._seen or 0, first + count)


class Relay:
    """The broker's station: what of a stream has gone to the client and is not taken yet.

    Items go on in order, each once while the client keeps its connection, which loses nothing: so one that asks again
    and again, and takes nothing, gets no more than two windows. Where it turns out not to have what came before, they
    go from there once more; and otherwise at times further and further apart, counted as often as they went.

    ``next``: so many items have gone to the client, in this epoch. ``is_held``: some did not go on, for want of room or
    since others before them are missing; the replica is to send them again.
    """

    def __init__(self) -> None:
        self.next = 0
        self.out_bytes = 0
        self.is_held = False
        self._out: deque[tuple[int, int]] = deque()
        self._first = 0
        self._expected: int | None = None
        self._received = 0
        self._patience_s = LONGEST_SILENCE_S
        self._may_repeat_at = math.inf

    def lets_pass(self, first: int, count: int) -> bool:
        """Whether these items may go on: they follow those before, and some have not gone yet."""
        if self._expected is None:
            return True
        if first > self._expected:
            self.is_held = True
        return first <= self._expected and (first + count > self._expected or not count)

    def send(self, first: int, count: int, size_bytes: int) -> None:
        """Items go to the client."""
        end = first + count
        if self._expected is None:
            self._first = first
        self._expected = end
        self.next = max(self.next, end)
        self.out_bytes += size_bytes
        self._out.append((end, size_bytes))

    def more(self, received: int, now: float, *, again: bool = False) -> int:
        """The client has taken all items below ``received``; ``again``: it misses those that follow.

        Returns:
            How many bytes are not on their way any more.
        """
        before = self.out_bytes
        while self._out and self._out[0][0] <= received:
            self.out_bytes -= self._out.popleft()[1]
        if received > self._received:
            self._received, self._patience_s = received, LONGEST_SILENCE_S
            self._may_repeat_at = math.inf
        if again and received == self._received:
            self._repeat(now)
        self.is_held = False
        return before - self.out_bytes

    def _repeat(self, now: float) -> None:
        received = self._received
        if self._expected is None:
            self._first = self._expected = received
        elif received < self._first:  # what has come is of no use
            self.out_bytes = 0
            self._out.clear()
            self._first = self._expected = received
        elif now < self._may_repeat_at:
            self._may_repeat_at = min(self._may_repeat_at, now + self._patience_s)
        else:
            self._expected = received
            self._patience_s *= 2
            self._may_repeat_at = now + self._patience_s

    def lose(self) -> int:
        """The client has another connection: what was on its way is gone. Returns as :meth:`more`."""
        freed_bytes, self.out_bytes = self.out_bytes, 0
        self._out.clear()
        self._expected = None
        return freed_bytes
