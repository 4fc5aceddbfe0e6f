"""A client and a replica without a network: the decisions are ``core/``'s, the processes around them are played."""

from __future__ import annotations

from collections import Counter as Tally

import msgspec

from hpcserve.core.caller import Caller
from hpcserve.core.holdings import Holdings
from hpcserve.errors import Cancelled, DeadlineExceeded
from hpcserve.types import Counter, Epoch, ReplicaId, RequestKey, SessionId
from hpcserve.wire import messages as wire

CREDIT = 2, 60
OUTBOX_BYTES = 150
DEADLINE_S = 20.0


class Link:
    """One connection of an endpoint to the broker."""

    def __init__(self, name: bytes, owner: Client | Replica) -> None:
        self.name, self.owner = name, owner
        self.up: list[object] = []
        self.down: list[object] = []


class Client:
    """A client process: the real Caller, and the loop around it."""

    def __init__(self, number: int) -> None:
        self.session = SessionId(bytes([number]) * 16)
        self.caller = Caller()
        self.link: Link | None = None
        self.answers: dict[Counter, str] = {}
        self.calls: dict[Counter, wire.Request] = {}
        self.is_alive = True
        self.is_resumed = False
        self.highest_sent = 0
        self.now = 0.0

    @property
    def sent(self) -> tuple[Counter, ...]:
        """What it has sent, to this broker or another, and still waits for."""
        return tuple(id for id in self.caller.outstanding if id <= self.highest_sent)

    def send(self, message: object) -> None:
        if self.link is not None:
            self.link.up.append(message)

    def start(self, method: str, size_bytes: int, deadline: float, now: float) -> None:
        call = wire.Request(Counter(0), "echo", method, msgspec.Raw(bytes(size_bytes)))
        id = self.caller.start(call, deadline)
        self.calls[id] = msgspec.structs.replace(call, id=id, remaining_ms=int(DEADLINE_S * 1000), priority=id % 3 - 1)
        if deadline == float("inf"):
            self.calls[id] = msgspec.structs.replace(self.calls[id], remaining_ms=None)
        if self.is_resumed:
            self.ask(id)

    def ask(self, id: Counter) -> None:
        self.highest_sent = max(self.highest_sent, id)
        floor, acks = self.caller.take_acks()
        self.send(msgspec.structs.replace(self.calls[id], floor=floor, acks=acks))

    def again(self, id: Counter) -> wire.Request:
        """The request as the broker has asked for it."""
        return msgspec.structs.replace(self.calls[id], attempt=1)

    def settle(self, id: Counter, answer: str) -> None:
        if self.caller.settle(id) is not None:
            assert id not in self.answers, "a request was answered twice"
            self.answers[id] = answer

    def resume(self) -> None:
        self.is_resumed = False
        self.send(wire.Resume(1, self.session, self.caller.floor, self.sent))

    def flush(self) -> None:
        if self.caller.owes_ack:
            self.send(wire.Ack(*self.caller.take_acks()))

    def tick(self, now: float) -> None:
        self.now = now
        for id in self.caller.expired(now):
            self.settle(id, DeadlineExceeded.code)
        if self.is_alive and self.is_resumed:
            for id in self.caller.due(now):
                self.ask(id)

    def take(self, result: wire.Result) -> None:
        if result.error is None:
            assert bytes(result.tensors).strip(b".") == payload((result.session, result.id)), "another result"
        after_ms = None if result.error is None else result.error.retry_after_ms
        if after_ms is not None and self.caller.refused(result.id, after_ms / 1000, 0.5, self.now):
            return
        self.settle(result.id, "ok" if result.error is None else result.error.code)

    def receive(self, message: object) -> None:
        if isinstance(message, wire.Result):
            assert message.session == self.session, "another session's result"
            self.take(message)
        elif isinstance(message, wire.SendAgain):
            for id in message.ids:
                if self.caller.get(id) is not None:
                    self.send(self.again(id))
        elif isinstance(message, wire.WhoAreYou):
            self.resume()
        else:
            assert isinstance(message, wire.Resumed)
            self.is_resumed = True
            for id in self.caller.outstanding:
                if id > self.highest_sent:
                    self.ask(id)


def payload(key: RequestKey) -> bytes:
    """The answer that only this request has."""
    return b"%s/%d" % (key[0].hex().encode(), key[1])


class Replica:
    """A replica's process: the real Holdings, and the loop around it. Runs one request at a time."""

    def __init__(self, number: int) -> None:
        self.id = ReplicaId(f"r{number}")
        self.holdings = Holdings(OUTBOX_BYTES)
        self.inbox: dict[RequestKey, Epoch] = {}
        self.running: RequestKey | None = None
        self.ran: Tally[RequestKey] = Tally()
        self.link: Link | None = None
        self.is_alive = True

    @property
    def held(self) -> tuple[RequestKey, ...]:
        """What it was given, and has not been told to let go of."""
        return (*self.holdings.unfinished, *self.holdings.finished)

    @property
    def credit(self) -> tuple[int, int]:
        return (0, 0) if self.holdings.is_full else CREDIT

    def send(self, message: object) -> None:
        if self.link is not None:
            self.link.up.append(message)

    def inventory(self) -> None:
        held = self.holdings
        self.send(wire.Inventory(1, held.epoch, held.fence, held.unfinished, held.finished, *self.credit))

    def work(self, size_bytes: int) -> None:
        """Ends what runs, or else begins what came first."""
        if self.running is not None:
            key, self.running = self.running, None
            body = msgspec.Raw(payload(key).ljust(size_bytes, b"."))
            self.holdings.finish(key, wire.Result(*key, body), size_bytes)
            self.send(wire.Result(*key, body, credit_requests=self.credit[0], credit_bytes=self.credit[1]))
        elif self.inbox and not self.holdings.is_full:
            key = next(iter(self.inbox))
            del self.inbox[key]
            if self.holdings.is_wanted(key):
                self.running = key
                self.ran[key] += 1
            else:
                self.holdings.drop(key)
                error = wire.ErrorInfo(Cancelled.code, "released")
                self.send(wire.Result(*key, error=error, credit_requests=CREDIT[0], credit_bytes=CREDIT[1]))

    def accept(self, work: wire.Work) -> None:
        self.inbox[work.session, work.id] = work.epoch

    def give_back(self, epoch: Epoch, most: int) -> None:
        may = [key for key, given in self.inbox.items() if given == epoch]
        for key in may[::-1][:most]:
            del self.inbox[key]
            self.holdings.drop(key)

    def release(self, keys: tuple[RequestKey, ...]) -> None:
        was_full = self.holdings.is_full
        for key in keys:
            self.holdings.release(key)
        if was_full and not self.holdings.is_full:
            self.send(wire.Credit(*self.credit))

    def fetch(self, keys: tuple[RequestKey, ...]) -> None:
        for key in keys:
            result = self.holdings.result(key)
            if isinstance(result, wire.Result):
                self.send(msgspec.structs.replace(result, credit_requests=self.credit[0], credit_bytes=self.credit[1]))
        held = [self.holdings.want(key) for key in keys]
        if not all(held):
            self.inventory()

    def receive(self, message: object) -> None:
        if isinstance(message, wire.Work):
            self.release(message.releases)
            if self.holdings.take(message.epoch, message.seq, (message.session, message.id)):
                self.accept(message)
        elif isinstance(message, wire.Release):
            self.release(message.keys)
        elif isinstance(message, wire.Fetch):
            self.fetch(message.keys)
        elif isinstance(message, wire.GiveBack):
            self.give_back(message.epoch, message.most)
            self.inventory()
        elif isinstance(message, wire.Census):
            self.holdings.census(message.epoch, message.fence)
            self.inventory()
        else:
            assert isinstance(message, wire.WhoAreYou)
            self.inventory()
