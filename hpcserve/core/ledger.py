"""The recovery protocol of the broker: what every event does to one request, as a table.

The broker, the client and the replica each keep what they must not lose, so that any of them may die:

- the **client** keeps a request until it has the answer;
- the **replica** keeps an answer until the client acknowledged it (:mod:`hpcserve.core.holdings`);
- the **broker** keeps only what it can be told again: a new one learns from each replica's INVENTORY what
  is running or finished there, and from each client's RESUME what is still waited for.

The rules that the table keeps, whatever is dropped, delayed, doubled, reordered or killed:

1. Every request that a client waits for ends: with a result, or with an error.
2. The first result wins; a second is released where it lies, and never delivered.
3. A request is given to another replica only when the first one said that it does not hold it (UNLISTED)
   or is known to be dead, or was given up and shut out (LOST). Silence alone is neither, so no request runs twice
   unless a process died or its node was cut off.
4. A request that may have run and must not run twice ends with OutcomeUnknown (BURNED).

Decides the state of single requests. Which request goes where, and when, is :mod:`hpcserve.core.exchange`'s.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from hpcserve.types import Counter, RequestKey

if TYPE_CHECKING:
    from hpcserve.core.lanes import Lane
    from hpcserve.core.replicas import Replica
    from hpcserve.core.sessions import Session
    from hpcserve.errors import HpcserveError


class State(IntEnum):
    """What the broker knows of one request. The first two stand for "no entry in the ledger"."""

    ABSENT = 0  # and its session has not resumed in this epoch: anything may be true
    SETTLED = 1  # and its session has resumed: the client does not wait for it
    SOUGHT = 2  # the client waits; some replica may hold it, not all have reported
    WANTED = 3  # no replica holds it; the client was asked to send it again
    QUEUED = 4  # its body is here
    RUNNING = 5  # its body is here, and it was given to a replica
    HELD = 6  # a replica holds it, perhaps unfinished; its body is not here
    KEPT = 7  # a replica holds its result, which has still to reach the client
    DONE = 8  # the result went to the client; the replica keeps it until the acknowledgement
    LEFT = 9  # the result went to the client; the replica that kept it is dead
    FAILED = 10  # the broker itself answered with an error, kept until the acknowledgement
    ABANDONED = 11  # the client does not wait any more, the replica has not let go yet
    STRAY = 12  # a replica holds it, and its session has not resumed in this epoch


class Event(IntEnum):
    """What can happen to a request. ``OTHER_*``: from another replica than the one that the entry names."""

    REQUEST = 0  # the client sent it
    RESUMED = 1  # the client's RESUME lists it as outstanding
    GIVEN = 2  # it was sent to a replica
    ANSWERED = 3  # its result came from a replica
    PARKED = 4  # its result came, and the client has too many unacknowledged already
    LISTED = 5  # an INVENTORY lists it as unfinished
    LISTED_DONE = 6  # an INVENTORY lists it as finished
    UNLISTED = 7  # its replica's INVENTORY does not list it
    OTHER_ANSWERED = 8
    OTHER_LISTED = 9
    LOST = 10  # its replica is dead
    BURNED = 11  # its replica is dead, and it must not run twice
    CONVICTED = 12  # its replica died while it ran this request alone
    RECOVERED = 13  # all replicas have reported, or had their time
    ACKED = 14  # the client has the answer, or does not want one
    REFUSED = 15  # the broker answers it with an error: no room, deadline over in the queue, deployment gone


class Effect(IntEnum):
    """What the exchange has to do, in this order, after the state changed."""

    ENQUEUE = 0
    DEQUEUE = 1
    FORWARD = 2  # pass the result on to the client
    PARK = 3  # remember to fetch the result when the client can take it
    ASK = 4  # ask the client for the body
    TELL = 5  # send the client the entry's error
    FETCH = 6  # ask the holder for the result
    RELEASE = 7  # tell the replica that spoke to let go of it
    RELEASE_HOLDER = 8  # tell the replica that the entry names to let go of it
    ADOPT = 9  # the replica that spoke is the holder from now on
    LET_GO = 10  # no replica is the holder any more
    FORGET = 11  # take the entry out of the ledger


# Python 3.11 looks a member up by its name each time it is written ``Event.GIVEN``, at ten times a global's cost:
# what every request meets is also known by these names.
ACKED, ANSWERED, GIVEN, REQUEST = Event.ACKED, Event.ANSWERED, Event.GIVEN, Event.REQUEST
LISTED, LISTED_DONE = Event.LISTED, Event.LISTED_DONE
DONE, QUEUED, RUNNING, SETTLED, WANTED = State.DONE, State.QUEUED, State.RUNNING, State.SETTLED, State.WANTED

NEVER = float("inf")
"""The deadline of a request without one."""

S, E, F = State, Event, Effect
Rule = tuple[State, tuple[Effect, ...]]

TABLE: dict[tuple[State, Event], Rule] = {
    # Not in the ledger, session not resumed: a replica of an earlier epoch speaks first.
    (S.ABSENT, E.ANSWERED): (S.STRAY, (F.ADOPT,)),
    (S.ABSENT, E.LISTED): (S.STRAY, (F.ADOPT,)),
    (S.ABSENT, E.LISTED_DONE): (S.STRAY, (F.ADOPT,)),
    # Not in the ledger, session resumed: nobody waits for what a replica says.
    (S.SETTLED, E.REQUEST): (S.QUEUED, (F.ENQUEUE,)),
    (S.SETTLED, E.RESUMED): (S.SOUGHT, ()),
    (S.SETTLED, E.ANSWERED): (S.SETTLED, (F.RELEASE, F.FORGET)),
    (S.SETTLED, E.PARKED): (S.SETTLED, (F.RELEASE, F.FORGET)),
    (S.SETTLED, E.LISTED): (S.ABANDONED, (F.RELEASE, F.ADOPT)),
    (S.SETTLED, E.LISTED_DONE): (S.SETTLED, (F.RELEASE, F.FORGET)),
    # Waiting for the replicas' inventories.
    (S.SOUGHT, E.ANSWERED): (S.DONE, (F.ADOPT, F.FORWARD)),
    (S.SOUGHT, E.PARKED): (S.KEPT, (F.ADOPT, F.PARK)),
    (S.SOUGHT, E.LISTED): (S.HELD, (F.ADOPT,)),
    (S.SOUGHT, E.LISTED_DONE): (S.KEPT, (F.ADOPT, F.FETCH)),
    (S.SOUGHT, E.RECOVERED): (S.WANTED, (F.ASK,)),
    (S.SOUGHT, E.ACKED): (S.SETTLED, (F.FORGET,)),
    # Waiting for the client's body; a late replica may still turn up with it.
    (S.WANTED, E.REQUEST): (S.QUEUED, (F.ENQUEUE,)),
    (S.WANTED, E.RESUMED): (S.WANTED, (F.ASK,)),
    (S.WANTED, E.ANSWERED): (S.DONE, (F.ADOPT, F.FORWARD)),
    (S.WANTED, E.PARKED): (S.KEPT, (F.ADOPT, F.PARK)),
    (S.WANTED, E.LISTED): (S.HELD, (F.ADOPT,)),
    (S.WANTED, E.LISTED_DONE): (S.KEPT, (F.ADOPT, F.FETCH)),
    (S.WANTED, E.REFUSED): (S.FAILED, (F.TELL,)),
    (S.WANTED, E.ACKED): (S.SETTLED, (F.FORGET,)),
    # In the queue.
    (S.QUEUED, E.GIVEN): (S.RUNNING, (F.DEQUEUE, F.ADOPT)),
    (S.QUEUED, E.ANSWERED): (S.DONE, (F.DEQUEUE, F.ADOPT, F.FORWARD)),
    (S.QUEUED, E.PARKED): (S.KEPT, (F.DEQUEUE, F.ADOPT, F.PARK)),
    (S.QUEUED, E.LISTED): (S.RUNNING, (F.DEQUEUE, F.ADOPT)),
    (S.QUEUED, E.LISTED_DONE): (S.KEPT, (F.DEQUEUE, F.ADOPT, F.FETCH)),
    (S.QUEUED, E.BURNED): (S.FAILED, (F.DEQUEUE, F.TELL)),
    (S.QUEUED, E.REFUSED): (S.FAILED, (F.DEQUEUE, F.TELL)),
    (S.QUEUED, E.ACKED): (S.SETTLED, (F.DEQUEUE, F.FORGET)),
    # At a replica, the body still here.
    (S.RUNNING, E.ANSWERED): (S.DONE, (F.FORWARD,)),
    (S.RUNNING, E.PARKED): (S.KEPT, (F.PARK,)),
    (S.RUNNING, E.LISTED_DONE): (S.KEPT, (F.FETCH,)),
    (S.RUNNING, E.UNLISTED): (S.QUEUED, (F.LET_GO, F.ENQUEUE)),
    (S.RUNNING, E.OTHER_ANSWERED): (S.DONE, (F.RELEASE_HOLDER, F.LET_GO, F.ADOPT, F.FORWARD)),
    (S.RUNNING, E.OTHER_LISTED): (S.RUNNING, (F.RELEASE,)),
    (S.RUNNING, E.LOST): (S.QUEUED, (F.LET_GO, F.ENQUEUE)),
    (S.RUNNING, E.BURNED): (S.FAILED, (F.LET_GO, F.TELL)),
    (S.RUNNING, E.CONVICTED): (S.FAILED, (F.LET_GO, F.TELL)),
    (S.RUNNING, E.ACKED): (S.ABANDONED, (F.RELEASE_HOLDER,)),
    # At a replica, the body not here.
    (S.HELD, E.RESUMED): (S.HELD, (F.FETCH,)),
    (S.HELD, E.ANSWERED): (S.DONE, (F.FORWARD,)),
    (S.HELD, E.PARKED): (S.KEPT, (F.PARK,)),
    (S.HELD, E.LISTED_DONE): (S.KEPT, (F.FETCH,)),
    (S.HELD, E.UNLISTED): (S.WANTED, (F.LET_GO, F.ASK)),
    (S.HELD, E.OTHER_ANSWERED): (S.DONE, (F.RELEASE_HOLDER, F.LET_GO, F.ADOPT, F.FORWARD)),
    (S.HELD, E.OTHER_LISTED): (S.HELD, (F.RELEASE,)),
    (S.HELD, E.LOST): (S.WANTED, (F.LET_GO, F.ASK)),
    (S.HELD, E.BURNED): (S.FAILED, (F.LET_GO, F.TELL)),
    (S.HELD, E.CONVICTED): (S.FAILED, (F.LET_GO, F.TELL)),
    (S.HELD, E.ACKED): (S.ABANDONED, (F.RELEASE_HOLDER,)),
    # Finished at a replica, not yet with the client.
    (S.KEPT, E.RESUMED): (S.KEPT, (F.FETCH,)),
    (S.KEPT, E.ANSWERED): (S.DONE, (F.FORWARD,)),
    (S.KEPT, E.PARKED): (S.KEPT, (F.PARK,)),
    (S.KEPT, E.LISTED_DONE): (S.KEPT, (F.FETCH,)),
    (S.KEPT, E.UNLISTED): (S.WANTED, (F.LET_GO, F.ASK)),
    (S.KEPT, E.OTHER_ANSWERED): (S.DONE, (F.RELEASE_HOLDER, F.LET_GO, F.ADOPT, F.FORWARD)),
    (S.KEPT, E.OTHER_LISTED): (S.KEPT, (F.RELEASE,)),
    (S.KEPT, E.LOST): (S.WANTED, (F.LET_GO, F.ASK)),
    (S.KEPT, E.BURNED): (S.FAILED, (F.LET_GO, F.TELL)),
    (S.KEPT, E.ACKED): (S.SETTLED, (F.RELEASE_HOLDER, F.FORGET)),
    # Answered; the replica's copy is there in case the client lost it on the way.
    (S.DONE, E.RESUMED): (S.KEPT, (F.FETCH,)),
    (S.DONE, E.UNLISTED): (S.LEFT, (F.LET_GO,)),
    (S.DONE, E.OTHER_ANSWERED): (S.DONE, (F.RELEASE,)),
    (S.DONE, E.OTHER_LISTED): (S.DONE, (F.RELEASE,)),
    (S.DONE, E.LOST): (S.LEFT, (F.LET_GO,)),
    (S.DONE, E.ACKED): (S.SETTLED, (F.RELEASE_HOLDER, F.FORGET)),
    # Answered, and no replica has a copy.
    (S.LEFT, E.RESUMED): (S.WANTED, (F.ASK,)),
    (S.LEFT, E.ANSWERED): (S.DONE, (F.ADOPT,)),
    (S.LEFT, E.PARKED): (S.DONE, (F.ADOPT,)),
    (S.LEFT, E.LISTED): (S.LEFT, (F.RELEASE,)),
    (S.LEFT, E.LISTED_DONE): (S.DONE, (F.ADOPT,)),
    (S.LEFT, E.ACKED): (S.SETTLED, (F.FORGET,)),
    # Answered with an error by the broker itself.
    (S.FAILED, E.RESUMED): (S.FAILED, (F.TELL,)),
    (S.FAILED, E.ANSWERED): (S.FAILED, (F.RELEASE,)),
    (S.FAILED, E.PARKED): (S.FAILED, (F.RELEASE,)),
    (S.FAILED, E.LISTED): (S.FAILED, (F.RELEASE,)),
    (S.FAILED, E.LISTED_DONE): (S.FAILED, (F.RELEASE,)),
    (S.FAILED, E.ACKED): (S.SETTLED, (F.FORGET,)),
    # Nobody waits; the replica was told so, and answers when it has let go. A client that was thought dead may
    # still come back for it.
    (S.ABANDONED, E.RESUMED): (S.HELD, (F.FETCH,)),
    (S.ABANDONED, E.ANSWERED): (S.SETTLED, (F.RELEASE, F.FORGET)),
    (S.ABANDONED, E.PARKED): (S.SETTLED, (F.RELEASE, F.FORGET)),
    (S.ABANDONED, E.LISTED): (S.ABANDONED, (F.RELEASE,)),
    (S.ABANDONED, E.LISTED_DONE): (S.SETTLED, (F.RELEASE, F.FORGET)),
    (S.ABANDONED, E.UNLISTED): (S.SETTLED, (F.FORGET,)),
    (S.ABANDONED, E.OTHER_ANSWERED): (S.ABANDONED, (F.RELEASE,)),
    (S.ABANDONED, E.OTHER_LISTED): (S.ABANDONED, (F.RELEASE,)),
    (S.ABANDONED, E.LOST): (S.SETTLED, (F.FORGET,)),
    (S.ABANDONED, E.BURNED): (S.SETTLED, (F.FORGET,)),
    (S.ABANDONED, E.CONVICTED): (S.SETTLED, (F.FORGET,)),
    # A replica holds what no session has asked for yet.
    (S.STRAY, E.RESUMED): (S.HELD, (F.FETCH,)),
    (S.STRAY, E.UNLISTED): (S.ABSENT, (F.FORGET,)),
    (S.STRAY, E.OTHER_ANSWERED): (S.STRAY, (F.RELEASE,)),
    (S.STRAY, E.OTHER_LISTED): (S.STRAY, (F.RELEASE,)),
    (S.STRAY, E.LOST): (S.ABSENT, (F.FORGET,)),
    (S.STRAY, E.ACKED): (S.ABSENT, (F.RELEASE_HOLDER, F.FORGET)),
}
"""(state, event) → (next state, effects). A pair that is not here changes nothing: a message that was
doubled or came late."""

RULES: tuple[tuple[Rule | None, ...], ...] = tuple(
    tuple(TABLE.get((state, event)) for event in Event) for state in State
)
"""The same table by index, for the hot path."""


UNFINISHED = tuple(state in (S.RUNNING, S.HELD, S.ABANDONED) for state in State)
"""By state: does the request count as work that its replica has still to do?"""

EMBODIED = tuple(state in (S.QUEUED, S.RUNNING) for state in State)
"""By state: does the broker hold the request's body?"""

UNCOUNTED, TAKEN, ENDED = 0, 1, 2
"""Whether a request has been counted: not at all, as one that came, as answered or failed too."""


class Entry:
    """One request in the ledger.

    ``deadline`` is in the broker's monotonic seconds (infinite without one), ``body`` what the exchange's
    caller gave with the request, ``place`` its order of arrival, which it keeps when it is queued again, ``lane`` where
    it waits (None while its deployment is not known), ``patience`` when it has waited there too long (infinite without
    such a time), ``seq`` the number under which it was given to ``replica``,
    ``tally`` what of it has been counted, ``begun`` whether it is a stream of which items have come,
    ``tried_beside_streams`` whether, as a suspect, it was in a death that only begun streams could have caused beside
    it.
    """

    __slots__ = (
        "attempt",
        "begun",
        "body",
        "deadline",
        "error",
        "given_at",
        "id",
        "idempotent",
        "key",
        "lane",
        "maybe_ran",
        "patience",
        "place",
        "priority",
        "replica",
        "seq",
        "session",
        "size_bytes",
        "state",
        "suspect",
        "tally",
        "tried_beside_streams",
    )

    def __init__(self, session: Session, id: Counter, state: State) -> None:
        self.session = session
        self.id = id
        self.key: RequestKey = (session.id, id)
        self.state = state
        self.replica: Replica | None = None
        self.lane: Lane | None = None
        self.body: object = None
        self.size_bytes = 0
        self.priority = 0
        self.deadline = NEVER
        self.patience = NEVER
        self.place = 0
        self.seq = 0
        self.attempt = 0
        self.idempotent = True
        self.maybe_ran = False
        self.begun = False
        self.suspect = False
        self.tried_beside_streams = False
        self.given_at = 0.0
        self.tally = UNCOUNTED
        self.error: HpcserveError | None = None
