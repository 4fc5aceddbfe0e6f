"""A client process as the broker sees it, and the byte budget that it may use."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hpcserve.core.access import Caller, Decision
from hpcserve.core.ranges import Ranges
from hpcserve.core.silence import LONGEST_S
from hpcserve.types import Counter, SessionId

if TYPE_CHECKING:
    from hpcserve.core.lanes import Lane
    from hpcserve.core.ledger import Entry


UNMET_LINGER_S = 1.5 * LONGEST_S
"""So long at least a broker waits for a client that it knows from replicas only: it may wait in silence for an answer
of a broker that stands still, and look seldom for another one."""


class Session:
    """The requests of one client process.

    ``met``: its client has been connected to this broker. ``connection`` is None while the client is away;
    ``away_since`` then says since when, and ``left`` which connection it had, if that was found gone. ``resumed`` is
    whether it sent a RESUME in this epoch; before that only replicas have spoken of its requests. Everything below
    ``floor``, and what ``settled`` lists above it, is settled for the client. ``held_bytes``: inputs and undelivered
    results, counted against the session's budget; ``sent_bytes`` is the part that went out to the client and was not
    acknowledged, ``item_bytes`` the items of streams in that. ``parked`` are results that wait at their replicas until
    the client can take them, each with its size where that is known.

    ``identity`` is who the broker knows to be behind it, ``caller`` what decides of what it may do; ``decided`` and
    ``seen`` are what was found out of that, and ``ways`` where the calls that it may make go.
    """

    __slots__ = (
        "away_since",
        "caller",
        "connection",
        "decided",
        "entries",
        "floor",
        "held_bytes",
        "id",
        "identity",
        "item_bytes",
        "left",
        "met",
        "parked",
        "resumed",
        "seen",
        "sent_bytes",
        "settled",
        "ways",
    )

    def __init__(self, id: SessionId) -> None:
        self.id = id
        self.identity: object = None
        self.caller = Caller()
        self.decided: dict[str, Decision] = {}
        self.seen: frozenset[str] | None = None
        self.ways: dict[tuple[str, str], tuple[Lane, bool]] = {}
        self.connection: bytes | None = None
        self.left: bytes | None = None
        self.away_since = 0.0
        self.met = False
        self.resumed = False
        self.floor = 1
        self.settled = Ranges()
        self.entries: dict[Counter, Entry] = {}
        self.held_bytes = 0
        self.sent_bytes = 0
        self.item_bytes = 0
        self.parked: deque[tuple[Entry, int]] = deque()

    def linger_s(self, session_linger_s: float) -> float:
        """How long it is kept while its client is away, when the site says so long."""
        return session_linger_s if self.met else max(session_linger_s, UNMET_LINGER_S)

    def is_settled(self, id: int) -> bool:
        """Whether the client has said that it does not wait for this request."""
        return id < self.floor or id in self.settled

    def settle(self, floor: int, acks: tuple[Counter, ...]) -> list[Counter]:
        """Notes an acknowledgement; returns the ids that it newly settles and that have an entry."""
        newly = [id for id in acks if id in self.entries]
        if acks:
            above = max(floor, self.floor)
            self.settled.update(id for id in acks if id >= above)
        if floor > self.floor:
            # Whichever is shorter: the gap that was closed, or what is in the ledger.
            if floor - self.floor <= len(self.entries):
                newly += [Counter(id) for id in range(self.floor, floor) if id in self.entries]
            else:
                newly += [id for id in self.entries if id < floor]
            self.floor = floor
            self.settled.drop_below(floor)
        return newly
