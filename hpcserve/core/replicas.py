"""What the broker knows of each replica, and which of them gets the next request.

The rule: of the replicas with credit left, the one with the least unfinished work; among equals the one
that has waited longest. Choosing costs the same with one replica and with a thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hpcserve.types import ReplicaId, RequestKey

if TYPE_CHECKING:
    from hpcserve.core.lanes import Lane
    from hpcserve.core.ledger import Entry


RESERVE = 8
"""So many urgent requests, or half of its credit if that is more, a replica is given beyond it: about a batch."""


class Replica:
    """One replica in the broker's books.

    ``connection`` is None while it is away. ``seq`` numbers what it was given in this epoch. ``entries``
    are the requests that it holds, finished or not; ``waiting`` counts the unfinished, ``waiting_bytes``
    their bytes. ``credit_*`` are the totals of unfinished work that it wants to hold. ``exclusive``: it was
    given a suspect, which runs alone; ``unsure``: it may be computing what ``waiting`` does not count. ``asked_back``:
    it was asked for what it has not begun, and has not said what it holds since; ``silent_*``: when it had been seen to
    have answered so many; ``ends_at``: when its pilot ends; ``known_since``: when it was first named; ``resting``: it
    gets no new work, as it is ``retiring`` or would not finish it before its end; ``runs``: what it computes, where it
    says so; ``unwanted_since``: for so long nobody has been seen to wait for that; ``doomed_at``: when the controller
    was last asked to have it killed, None if it was not.
    """

    __slots__ = (
        "answered",
        "asked_at",
        "asked_back",
        "connection",
        "credit_bytes",
        "credit_requests",
        "doomed_at",
        "ends_at",
        "entries",
        "exclusive",
        "id",
        "known_since",
        "lane",
        "releases",
        "reported",
        "resting",
        "retiring",
        "runs",
        "seq",
        "silent_at",
        "silent_since",
        "unsure",
        "unwanted_since",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, id: ReplicaId, lane: Lane) -> None:
        self.id = id
        self.lane = lane
        self.connection: bytes | None = None
        self.reported = False
        self.retiring = False
        self.resting = False
        self.ends_at = self.known_since = float("inf")
        self.exclusive = False
        self.unsure = False
        self.seq = 0
        self.asked_at = 0.0
        self.waiting = 0
        self.waiting_bytes = 0
        self.answered = 0
        self.asked_back = False
        self.silent_at = 0
        self.silent_since = float("inf")
        self.credit_requests = 0
        self.credit_bytes = 0
        self.entries: dict[RequestKey, Entry] = {}
        self.releases: list[RequestKey] = []
        self.runs: tuple[RequestKey, ...] = ()
        self.unwanted_since = float("inf")
        self.doomed_at: float | None = None

    def has_credit(self, *, urgent: bool = False) -> bool:
        """Whether one more request may be sent to it now. An ``urgent`` one may be one of half as many again, or 8."""
        more = max(RESERVE, self.credit_requests // 2) if urgent and self.credit_requests else 0
        return (
            self.connection is not None
            and not self.resting
            and self.doomed_at is None
            and not self.exclusive
            and self.waiting < self.credit_requests + more
            and (self.waiting == 0 or self.waiting_bytes < self.credit_bytes)
        )

    def take_releases(self) -> tuple[RequestKey, ...]:
        """What is to be released there, once."""
        if not self.releases:
            return ()
        taken = tuple(self.releases)
        self.releases = []
        return taken


class LeastLoaded:
    """The replicas of one deployment that have credit, in buckets by their unfinished requests.

    Args:
        urgent: It is for urgent requests, of which a replica may be given some beyond its credit.
    """

    def __init__(self, *, urgent: bool = False) -> None:
        self._urgent = urgent
        self._buckets: list[dict[Replica, None]] = []
        self._place: dict[Replica, int] = {}
        self._lowest = 0

    def __len__(self) -> int:
        return len(self._place)

    def update(self, replica: Replica) -> None:
        """Puts the replica where its load and its credit belong; to be called whenever either changed."""
        old = self._place.get(replica)
        new = replica.waiting if replica.has_credit(urgent=self._urgent) else None
        if old == new:
            return
        if old is not None:
            del self._buckets[old][replica]
        if new is None:
            del self._place[replica]
            return
        while len(self._buckets) <= new:
            self._buckets.append({})
        self._buckets[new][replica] = None
        self._place[replica] = new
        if new < self._lowest:  # noqa: PLR1730 - twice per request, and min() costs more
            self._lowest = new

    def discard(self, replica: Replica) -> None:
        """Takes the replica out."""
        place = self._place.pop(replica, None)
        if place is not None:
            del self._buckets[place][replica]

    def pick(self) -> Replica | None:
        """The replica for the next request, or None when none has credit."""
        if not self._place:
            return None
        while not self._buckets[self._lowest]:
            self._lowest += 1
        return next(iter(self._buckets[self._lowest]))

    def idle_loads(self, streams: Callable[[Replica], int]) -> list[int]:
        """What the replicas with credit hold, least first, that have nothing to do but streams that have begun.

        ``streams``: how many of a replica's unfinished requests are such streams.
        """
        by_load = (each for bucket in self._buckets for each in bucket)
        return [each.waiting for each in by_load if not each.waiting or each.waiting <= streams(each)]

    def pick_idle(self, streams: Callable[[Replica], int] | None = None) -> Replica | None:
        """A replica without unfinished work, for a request that must run alone.

        ``streams``: how many of a replica's unfinished requests are streams that have begun, which may take days and do
        not count; the fewer, the better. None: there are no such streams anywhere.
        """
        replica = self.pick()
        if replica is None or not replica.waiting:
            return replica
        if streams is None:
            return None
        by_load = (each for bucket in self._buckets[self._lowest :] for each in bucket)
        return next((each for each in by_load if each.waiting <= streams(each)), None)
