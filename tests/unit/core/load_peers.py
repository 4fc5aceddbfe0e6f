"""Clients that come back when they are refused, and replicas that batch: the real decisions, and loops around them.

A sample is eight bytes that no other sample has; the first says what the method does when it meets it.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import msgspec

from hpcserve.core.batching import UNBATCHED, BatchSize, Group, Inbox, Policy, Sizes
from hpcserve.core.credit import INBOX_BYTES, Credit
from hpcserve.core.holdings import Holdings
from hpcserve.core.ledger import NEVER
from hpcserve.errors import (
    Cancelled,
    DeadlineExceeded,
    HpcserveError,
    InvalidOutput,
    OutcomeUnknown,
    Overloaded,
    PoisonRequest,
    ServableError,
)
from hpcserve.replica.together import MOST_NAMED, Request, Result, of_one_sample, run_together
from hpcserve.servable.api import SampleError
from hpcserve.types import Counter, Epoch, RequestKey
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import error_to_wire
from tests.unit.core.recovery_peers import Client, Replica

SAMPLE_BYTES = 8
OUTBOX_BYTES = 240
MAX_WAIT_S = 0.2
ROOM = 20
"""A call with more samples than this has no memory."""

POLICIES = {"again": Policy(), "few": Policy(max_samples=6, max_wait_s=MAX_WAIT_S, preferred=(2, 4))}
"""The methods that are batched; there is "once" beside them, which must not run twice."""

GOOD, RAISES, NAMES, WRONG, HUNGRY, CRASHES = b"grnwmc"


def outcomes_of(call: wire.Request) -> set[str]:
    """What a request may come to that was neither given up nor late, whatever runs beside it."""
    kinds = set(bytes(call.tensors)[::SAMPLE_BYTES])
    if CRASHES in kinds:
        return {PoisonRequest.code if call.method != "once" else OutcomeUnknown.code}
    if kinds <= {GOOD}:
        return {"ok"}
    return {ServableError.code, InvalidOutput.code}


class LoadClient(Client):
    """A client process that does what it is told when it is refused."""

    def __init__(self, number: int, clock: Callable[[], float]) -> None:
        super().__init__(number)
        self._clock = clock
        self.deadlines: dict[Counter, float] = {}
        self.refusals: dict[Counter, str] = {}

    def submit(self, method: str, kinds: str, shape: str, priority: int, within_s: float) -> None:
        deadline = self._clock() + within_s
        id = self.caller.start(self, deadline)
        samples = "".join(f"{kind}{shape}{self.session[0]}{id:04}{at}" for at, kind in enumerate(kinds)).encode()
        self.calls[id] = wire.Request(id, "echo", method, msgspec.Raw(samples), priority=priority)
        self.deadlines[id] = deadline
        self.refresh(id)
        if self.is_resumed:
            self.ask(id)

    def refresh(self, id: Counter) -> None:
        """Whenever a request is sent it says how much time is left to it now."""
        left_s = self.deadlines[id] - self._clock()
        remaining_ms = None if left_s == NEVER else max(0, int(left_s * 1000))
        self.calls[id] = msgspec.structs.replace(self.calls[id], remaining_ms=remaining_ms)

    def ask(self, id: Counter) -> None:
        self.refresh(id)
        super().ask(id)

    def again(self, id: Counter) -> wire.Request:
        self.refresh(id)
        return super().again(id)

    def take(self, result: wire.Result) -> None:
        id, error = result.id, result.error
        if id not in self.caller.outstanding:
            return
        if error is None:
            assert bytes(result.tensors) == bytes(self.calls[id].tensors).upper(), "another result"
        elif error.code == Overloaded.code and error.retry_after_ms is not None:
            self.refusals[id] = error.code
            late = id * 7 % 10 / 10
            if self.caller.refused(id, error.retry_after_ms / 1000, late, self._clock()):
                return
        self.settle(id, "ok" if error is None else error.code)

    def tick(self, now: float) -> None:
        if self.is_resumed:
            for id in self.caller.due(now):
                self.refusals.pop(id, None)
                self.ask(id)
        expired = self.caller.expired(now)
        for id in expired:
            self.settle(id, self.refusals.get(id, DeadlineExceeded.code))
        if expired and self.is_resumed:
            self.flush()

    def next_due(self) -> float:
        """When it has something to do by itself, at the latest."""
        later = (at for at, id in self.caller._later if id in self.caller.outstanding)
        return min(self.caller.next_deadline(), min(later, default=NEVER))


class Died(BaseException):
    """The process that ran the method is no more."""


class Model:
    """A method's code in one batch: what it costs, and how it fails."""

    def __init__(self, fixed_s: float, per_sample_s: float) -> None:
        self.fixed_s, self.per_sample_s = fixed_s, per_sample_s
        self.took_s = 0.0
        self.failures = 0
        self.calls: Tally[RequestKey] = Tally()

    def __call__(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        samples = [sample for request in requests for sample in request["x"]]
        self.took_s += self.fixed_s + self.per_sample_s * len(samples)
        self.calls.update(request["key"] for request in requests)
        kinds = [sample[0] for sample in samples]
        if CRASHES in kinds:
            raise Died
        self._fail(kinds)
        return [{"y": b"".join(request["x"]).upper()} for request in requests]

    def _fail(self, kinds: list[int]) -> None:
        self.failures += 1
        if len(kinds) > ROOM or HUNGRY in kinds:
            raise ServableError("failed") from MemoryError(f"no room for {len(kinds)}")
        for index, kind in enumerate(kinds):
            if kind in (RAISES, NAMES):
                raise ServableError("failed") from (
                    ValueError("bad") if kind == RAISES else SampleError(index, "this one")
                )
        if WRONG in kinds:
            raise InvalidOutput("returned another number of samples")
        self.failures -= 1

    def check_calls(self, requests: int) -> None:
        """A request is in one call, or in as many as it takes to find who is at fault."""
        most = 1 if not self.failures else MOST_NAMED + int(log2(requests)) + 2
        assert max(self.calls.values()) <= most, f"in {max(self.calls.values())} calls of a batch of {requests}"


@dataclass(frozen=True)
class Task:
    """A request in the inbox; ``place`` is its order of arrival."""

    key: RequestKey
    epoch: Epoch
    place: int
    arrived: float
    group: Group
    priority: int
    deadline: float
    samples: tuple[bytes, ...]

    @property
    def inputs(self) -> Mapping[str, Any]:
        return {"key": self.key, "x": self.samples}


@dataclass(frozen=True)
class Batch:
    """What a replica computes; ``results`` is empty if it dies of it."""

    tasks: list[Task]
    results: list[Result]
    too_many: int
    size: BatchSize | None
    full: bool
    began: float
    ends: float


class LoadReplica(Replica):
    """A replica's process with all that decides in it, and a loop as that of :mod:`hpcserve.replica.loop`."""

    def __init__(self, number: int, clock: Callable[[], float]) -> None:
        super().__init__(number)
        self.holdings = Holdings(OUTBOX_BYTES)
        self.waiting: Inbox[Task] = Inbox()
        self.sizes = Sizes(POLICIES.__getitem__)
        self.batch: Batch | None = None
        self.company_until = NEVER
        self.says_runs = False
        self._clock = clock
        self._credit = Credit()
        self._places = 0

    @property
    def credit(self) -> tuple[int, int]:
        return (0, 0) if self.holdings.is_full else (self._credit.requests(), INBOX_BYTES)

    @property
    def can_begin(self) -> bool:
        """Whether there is something to be run, and nothing to wait for."""
        idle = self.batch is None and not self.holdings.is_full
        return idle and len(self.waiting) > 0 and self.company_until == NEVER

    def accept(self, work: wire.Work) -> None:
        now, body = self._clock(), bytes(work.tensors)
        samples = tuple(body[at : at + SAMPLE_BYTES] for at in range(0, len(body), SAMPLE_BYTES))
        group = (work.method, body[1:2], b"") if work.method in POLICIES else UNBATCHED
        deadline = NEVER if work.remaining_ms is None else now + work.remaining_ms / 1000
        self._places += 1
        task = Task((work.session, work.id), work.epoch, self._places, now, group, work.priority, deadline, samples)
        self.waiting.push(task, group, samples=len(samples), priority=work.priority, deadline=deadline, now=now)

    def give_back(self, epoch: Epoch, most: int) -> None:
        for task in self.waiting.give_back(most, lambda task: task.epoch == epoch):
            self.holdings.drop(task.key)
        self.company_until = NEVER

    def begin(self, fixed_s: float, per_sample_s: float) -> bool:
        """Begins the next batch; False: there is none to begin now."""
        self.company_until = NEVER
        if self.batch is not None or not len(self.waiting) or self.holdings.is_full:
            return False
        now = self._clock()
        first = min(self.waiting.tasks(), key=lambda each: (-each.priority, each.place))
        group, wait_s = self.waiting.next(self.sizes, now)
        if wait_s > 0:
            assert wait_s < MAX_WAIT_S + 1e-6
            assert all(each.group is not UNBATCHED and each.group[0] == "few" for each in self.waiting.tasks())
            self.company_until = now + wait_s
            for each in self.waiting.tasks():
                assert self.company_until < (each.arrived + each.deadline) / 2 + 1e-6, "waits for half of what is left"
            return False
        size = None if group is UNBATCHED else self.sizes.of(group)
        limit, preferred = (1, ()) if size is None else (size.limit, size.policy.preferred)
        taken, full = self.waiting.take(group, limit, preferred)
        may_wait = first.group is not UNBATCHED and first.group[0] == "few" and now < first.arrived + MAX_WAIT_S + 1e-6
        assert first in taken or may_wait, "passed over"
        assert len(taken) == 1 or sum(len(each.samples) for each in taken) <= limit
        tasks = [each for each in taken if self._is_due(each, now)]
        if tasks:
            self.batch = self._compute(tasks, size, full, Model(fixed_s, per_sample_s))
            if self.says_runs:
                self.send(wire.Runs(tuple(each.key for each in tasks)))
        return True

    def _is_due(self, task: Task, now: float) -> bool:
        if not self.holdings.is_wanted(task.key):
            self.holdings.drop(task.key)
            self._answer(task.key, error=error_to_wire(Cancelled("taken back")))
        elif task.deadline <= now:
            self._finish(task.key, DeadlineExceeded("late"))
        else:
            return True
        return False

    def _compute(self, tasks: list[Task], size: BatchSize | None, full: bool, model: Model) -> Batch:  # noqa: FBT001
        results: list[Result] = []
        too_many, now = 0, self._clock()
        try:
            if len(tasks) == 1:
                try:
                    results = list(model([tasks[0].inputs]))
                except HpcserveError as error:
                    results = [of_one_sample(error)]
            else:
                samples = [len(each.samples) for each in tasks]
                results, too_many = run_together([each.inputs for each in tasks], model, samples)
            model.check_calls(len(tasks))
        except Died:
            results = []
        return Batch(tasks, results, too_many, size, full, now, now + model.took_s)

    def end(self) -> None:
        """What runs is over."""
        batch, self.batch = self.batch, None
        assert batch is not None
        run_s, size = self._clock() - batch.began, batch.size
        samples = sum(len(each.samples) for each in batch.tasks)
        if size is None:
            self._credit.ran(run_s)
        else:
            if batch.too_many:
                size.out_of_memory(batch.too_many)
            elif not any(isinstance(each, HpcserveError) for each in batch.results):
                size.ran(max(1, samples), run_s, full=batch.full, requests=len(batch.tasks))
            self._credit.ran_together(len(batch.tasks), samples, run_s, size.limit)
        for task, result in zip(batch.tasks, batch.results, strict=True):
            self._finish(task.key, result)

    def _finish(self, key: RequestKey, result: Result) -> None:
        error = error_to_wire(result) if isinstance(result, HpcserveError) else None
        body = wire.EMPTY_LIST if isinstance(result, HpcserveError) else msgspec.Raw(result["y"])
        kept = wire.Result(*key, body, error)
        self.holdings.finish(key, kept, len(bytes(body)))
        self._answer(key, body, error)

    def _answer(
        self, key: RequestKey, body: msgspec.Raw = wire.EMPTY_LIST, error: wire.ErrorInfo | None = None
    ) -> None:
        requests, size_bytes = self.credit
        self.send(wire.Result(*key, body, error, credit_requests=requests, credit_bytes=size_bytes))
