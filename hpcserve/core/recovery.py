"""The replicas' side of the broker: what they hold, what they answer, and what is done when they die.

Here is also the end of the recovery: when a new broker knows enough to ask the clients for what nobody holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from hpcserve.core import actions as act
from hpcserve.core.absences import REPLICA, Absences
from hpcserve.core.dispatch import Dispatch, Limits
from hpcserve.core.ledger import NEVER, UNFINISHED, Entry, Event, State
from hpcserve.core.replicas import Replica
from hpcserve.core.streams import Relay
from hpcserve.errors import PoisonRequest, StreamInterrupted
from hpcserve.types import ReplicaId, RequestKey

DOOM_S = 5.0
"""If a replica is alive so long after it was last reported, nobody has killed it: it may have work again."""


class Recovery(Dispatch):
    """What replicas say, and what their silence means."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self.recovered = False
        self.absences = Absences(limits.unreachable_s, limits.recovery_grace_s, now)
        self._began = now
        self._roster_known = False
        self._replica_by_connection: dict[bytes, Replica] = {}

    def replica_of(self, connection: bytes) -> Replica | None:
        """The replica that sent its INVENTORY on this connection."""
        return self._replica_by_connection.get(connection)

    def inventory(
        self,
        replica_id: ReplicaId,
        connection: bytes,
        *,
        unfinished: tuple[RequestKey, ...],
        finished: tuple[RequestKey, ...],
        fence: int,
        credit: tuple[int, int],
        now: float,
        remaining_ms: Sequence[int | None] = (),
        yielded: Sequence[int] = (),
    ) -> bool:
        """A replica told what it holds. ``fence`` is 0 when it speaks of another epoch than this one.

        ``remaining_ms`` goes with ``unfinished``: until each one's deadline; None, or nothing: it has none. So does
        ``yielded``: how many items of its stream there are.

        Returns:
            Whether the replica is on the roster; one that is not has no business here.
        """
        self._now = now
        replica = self.replicas.get(replica_id)
        if replica is None:
            return False
        fresh = replica.connection != connection
        if fresh:
            if replica.connection is not None:
                self._replica_by_connection.pop(replica.connection, None)
            replica.connection = connection
            self._replica_by_connection[connection] = replica
            self.absences.over(REPLICA, replica_id)
        replica.reported = True
        replica.credit_requests, replica.credit_bytes = credit
        replica.unsure = replica.asked_back = False
        if fresh:
            replica.runs = ()
            for key in replica.entries if self.repeats else ():
                self.repeats.pop(key, None)  # what was asked for is lost with the connection
        for keys, event in ((unfinished, Event.LISTED), (finished, Event.LISTED_DONE)):
            for session_id, id in keys:
                entry = self.entry(self.session(session_id, now), id)
                self.apply(entry, event, replica)
                if event is Event.LISTED and not (entry.replica is replica and UNFINISHED[entry.state]):
                    replica.unsure = True
        self._learn(replica, unfinished, remaining_ms)
        self._learn_streams(replica, unfinished, yielded)
        listed = {*unfinished, *finished}
        for key, entry in list(replica.entries.items()):
            if key not in listed and entry.seq <= fence:
                self._unlist(entry)
        if fresh and replica.seq > fence:
            self._census(replica)
        self._check_recovered()
        self._refill(replica)
        return True

    def _learn(self, replica: Replica, unfinished: tuple[RequestKey, ...], remaining_ms: Sequence[int | None]) -> None:
        """What an earlier broker gave to the replica is watched from now on, by the deadline that the replica names."""
        for key, left_ms in zip_longest(unfinished, remaining_ms[: len(unfinished)]):
            entry = replica.entries.get(key)
            if entry is not None and not entry.given_at:
                entry.given_at = self._now
                if left_ms is not None and entry.deadline == NEVER:
                    entry.deadline = self._now + left_ms / 1000

    def _learn_streams(self, replica: Replica, unfinished: tuple[RequestKey, ...], yielded: Sequence[int]) -> None:
        """Streams that have begun are known as such at once: one that is parked may send no item for long."""
        for key, count in zip(unfinished, yielded):  # noqa: B905 - an older replica names none
            entry = replica.entries.get(key)
            if not count or entry is None:
                continue
            if entry.state in (State.RUNNING, State.HELD):
                relay = self.relays.setdefault(key, Relay())
                relay.next = max(relay.next, count)
                entry.suspect = False
            else:  # nobody has asked for it yet, or does any more
                entry.begun = True

    def _unlist(self, entry: Entry) -> None:
        """Its replica does not hold this request: it never took it, or it may have run it."""
        if entry.key in self.relays and entry.state is not State.DONE:
            self._interrupt(entry)
            return
        if entry.state is State.RUNNING:
            self.counts.requeued += 1
        else:
            entry.maybe_ran = True
        self.apply(entry, Event.UNLISTED)

    def answered(
        self,
        replica: Replica,
        key: RequestKey,
        *,
        body: object,
        size_bytes: int,
        credit: tuple[int, int],
        now: float,
        late: bool = False,
    ) -> None:
        """A replica sent a result. ``late``: the deadline passed, there or in the middle of a stream."""
        self._now = now
        replica.credit_requests, replica.credit_bytes = credit
        replica.answered += 1
        session = self.sessions.get(key[0])
        entry = None if session is None else session.entries.get(key[1])
        if entry is None:
            entry = self.entry(self.session(key[0], now), key[1])
        if not entry.begun:
            lane = replica.lane
            lane.answered += not late
            lane.expired += late
            took_s = now - entry.given_at
            if took_s > lane.longest.span_s and entry.seq and entry.replica is replica and UNFINISHED[entry.state]:
                self._took(lane, took_s)
        self.result(replica, entry, body, size_bytes)
        self._refill(replica)

    def dropped(self, replica: Replica, key: RequestKey, *, credit: tuple[int, int], now: float) -> None:
        """A replica let go, before it had begun it, of a request that it was told to release.

        Where somebody waits for it all the same only an INVENTORY is proof: this word may be an old one.
        """
        self._now = now
        replica.credit_requests, replica.credit_bytes = credit
        session = self.sessions.get(key[0])
        entry = None if session is None else session.entries.get(key[1])
        if entry is not None and entry.replica is replica:
            if entry.state is State.ABANDONED:
                self.apply(entry, Event.UNLISTED)
            elif UNFINISHED[entry.state]:
                self._census(replica)
        self._refill(replica)

    def credit(self, replica: Replica, credit: tuple[int, int], now: float) -> None:
        """A replica wants to hold more, or less."""
        self._now = now
        replica.credit_requests, replica.credit_bytes = credit
        self._refill(replica)

    def replica_gone(self, connection: bytes, now: float) -> None:
        """A replica's connection is not there any more. That says nothing of the replica itself, unless it lasts."""
        self._now = now
        replica = self._replica_by_connection.pop(connection, None)
        if replica is not None and replica.connection == connection:
            replica.connection = None
            replica.lane.discard(replica)
            self.absences.gone(REPLICA, replica.id, now)

    def _lose(self, replica: Replica, cause: str | None) -> None:
        """The replica is dead. What it had unfinished goes back to the queue; see design §6.

        A suspect that had only begun streams beside it is convicted when that has happened to it twice: once, one of
        the streams may be the culprit, which had its turns there too.

        ``cause``: how it ended, in words (empty: nobody knows); None: not by itself.
        """
        crashed = cause is not None
        self.absences.over(REPLICA, replica.id)
        replica.lane.discard(replica)
        if replica.connection is not None:
            self._replica_by_connection.pop(replica.connection, None)
            replica.connection = None
        del self.replicas[replica.id]
        streams = self.streams_at(replica)
        alone = replica.exclusive and replica.waiting - streams == 1 and not replica.unsure
        for entry in list(replica.entries.values()):
            unfinished = UNFINISHED[entry.state]
            if crashed and alone and unfinished and entry.suspect and (not streams or entry.tried_beside_streams):
                entry.error = _poison(replica.id, cause, streams)
                self.apply(entry, Event.CONVICTED)
            elif not entry.idempotent and entry.state is not State.DONE:
                self._burn(entry)
            elif entry.key in self.relays and entry.state is not State.DONE:
                self._interrupt(entry)
            else:
                entry.maybe_ran = True
                entry.tried_beside_streams |= crashed and alone and entry.suspect
                entry.suspect = entry.suspect or (crashed and unfinished)
                self.counts.requeued += entry.state is State.RUNNING
                self.apply(entry, Event.LOST)

    def _interrupt(self, entry: Entry) -> None:
        """Items of this stream have reached its client: a second run might yield others."""
        sent = self.relays[entry.key].next
        entry.error = StreamInterrupted(
            f"the replica died after {sent} items of the stream; a second run might yield others: call it again to "
            "have them from the start"
        )
        self.apply(entry, Event.BURNED)

    def _refill(self, replica: Replica) -> None:
        """The replica's load or credit changed: it may be the next to be given something."""
        lane = replica.lane
        lane.update(replica)
        if lane.queue.count:
            self._pump(lane)

    def _census(self, replica: Replica) -> None:
        if replica.connection is not None:
            replica.asked_at = self._now
            self._actions.append(act.Census(replica.connection, replica.seq))

    def runs(self, replica: Replica, keys: tuple[RequestKey, ...]) -> None:
        """A replica has begun these, and nothing else; it says so where its deployment has it killed for it."""
        if keys != replica.runs:
            replica.runs, replica.unwanted_since = keys, NEVER

    def _look_for_unwanted(self, replica: Replica, allowed_s: float) -> float:
        """Reports the replica if it has run for so long what nobody waits for. Returns when to look again.

        Not while another request lies there that must not run twice: nobody could say that it had not begun. Nor while
        somebody reads a stream from it.
        """
        entries = replica.entries
        runs = [entries[key] for key in replica.runs if key in entries]
        unwanted = len(runs) == len(replica.runs) > 0 and all(each.state is State.ABANDONED for each in runs)
        if not unwanted or any(map(self._must_not_be_lost, entries.values())):
            replica.unwanted_since = NEVER
            return NEVER
        replica.unwanted_since = min(replica.unwanted_since, self._now)
        for_s = self._now - replica.unwanted_since
        if for_s < allowed_s:
            return replica.unwanted_since + allowed_s
        self._doom(replica, act.ReportUnwanted(replica.id, for_s))
        return self._now + 1.0

    def _must_not_be_lost(self, entry: Entry) -> bool:
        """Whether somebody may wait for this unfinished request, and it is not run twice.

        What an earlier broker gave out, of which nobody has said what it is, may be such a one.
        """
        once = not entry.idempotent or entry.lane is None or entry.key in self.relays
        return once and _may_run(entry) and entry.state is not State.ABANDONED

    def _doom(self, replica: Replica, report: act.ReportHung | act.ReportUnwanted) -> None:
        """The replica is to be killed: what it was given now would be lost, or not run again."""
        self._actions.append(report)
        replica.doomed_at = self._now
        replica.lane.discard(replica)

    def _spare(self, replica: Replica) -> None:
        """Gives a replica work again that was to be killed and still lives, as while there is no controller."""
        if replica.doomed_at is not None and self._now - replica.doomed_at >= DOOM_S:
            replica.doomed_at = None
            self._refill(replica)

    def ask_back(self, replica: Replica, most: int) -> None:
        """Has a replica give back so many requests that it has not begun; its INVENTORY will tell which."""
        if replica.connection is not None and not replica.asked_back:
            replica.asked_back = True
            self._actions.append(act.GiveBack(replica.connection, most))

    def _watch(self, replica: Replica) -> None:
        """Looks at the oldest request of a replica: is it long overdue, or was it perhaps lost on the way?

        The oldest is the one that runs, or a stream: they take turns with it, until the replica lets go of them, though
        their client may wait no more. Those behind it may be overdue for no other reason than that they wait.
        """
        may_run = [each for each in replica.entries.values() if _may_run(each)]
        oldest = next((each for each in may_run if not self._takes_turns(each)), None)
        if oldest is None:
            return
        # Of the streams the one that has the most time may be what runs, and all else waits for it.
        overdue_s = min(self._now - each.deadline for each in may_run if each is oldest or self._takes_turns(each))
        if overdue_s > self.limits.hang_grace_s:
            self._doom(replica, act.ReportHung(replica.id, overdue_s))
        if self._now - max(oldest.given_at, replica.asked_at) > self.limits.census_s:
            self._census(replica)

    def _takes_turns(self, entry: Entry) -> bool:
        """Whether it is a stream that has begun."""
        return entry.begun or entry.key in self.relays

    def _check_recovered(self) -> None:
        """Ends the recovery when every known replica has reported, or the grace since they are known is over."""
        if self.recovered or not self._roster_known:
            return
        reported = all(each.reported for each in self.replicas.values())
        if not reported and self._now - self._began < self.limits.recovery_grace_s:
            return
        self.recovered = True
        for session in self.sessions.values():
            for entry in list(session.entries.values()):
                if entry.state is State.SOUGHT:
                    self.apply(entry, Event.RECOVERED)


def _poison(replica: ReplicaId, cause: str | None, streams: int) -> PoisonRequest:
    end = f" ({cause})" if cause else ""
    which, but = ("third", " but streams that had begun") if streams else ("second", "")
    return PoisonRequest(
        f"a {which} replica died of this request: {replica} ran nothing else{but}{end}; see: hpcserve logs {replica}"
    )


def _may_run(entry: Entry) -> bool:
    """Whether its replica may be running this request. A STRAY one that is finished has no ``given_at``."""
    return UNFINISHED[entry.state] or (entry.state is State.STRAY and entry.given_at > 0.0)
