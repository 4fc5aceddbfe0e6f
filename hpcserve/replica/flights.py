"""The calls that a replica has launched and not yet answered: at most ``AT_ONCE``, answered in the order of launch.

While one computes, the loop reads its socket, forms the next batch and launches it. All else waits until none is in
flight: a call that is not launched, and the turn of a stream. When the next one is due,
:mod:`hpcserve.core.overlap` decides.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hpcserve.core.batching import UNBATCHED, BatchSize, Group, Inbox, Sizes
from hpcserve.core.credit import Credit
from hpcserve.core.overlap import AT_ONCE, launch_in_s, pause_s
from hpcserve.replica.executor import Executor, Flight
from hpcserve.replica.outcome import Outcome, late
from hpcserve.replica.staged import Stager
from hpcserve.replica.task import Task
from hpcserve.types import RequestKey


class Host(Protocol):
    """The loop, as the flights need it."""

    def flies(self, tasks: Sequence[Task], behind: Sequence[Task], deadline: float) -> None:
        """What was launched is computed now, until ``deadline``; what is ``behind`` it waits for the device."""

    def ran(self, began: float) -> float:
        """How long something ran that is over now."""

    def gave_up(self) -> bool:
        """Whether nobody waits any more for what runs now."""

    def learned(self) -> None:
        """There is something new to tell of batches."""

    def finish(self, task: Task, outcome: Outcome | None, run_us: int, items: int | None = None) -> None:
        """A request has ended."""


class _Launched(NamedTuple):
    """One call; ``size``: of the batches that it was made from, or could have been in; None: it runs alone always."""

    tasks: Sequence[Task]
    size: BatchSize | None
    full: bool
    flight: Flight
    at: float
    late: set[RequestKey]
    """Those that were answered while it waited for the device."""

    @property
    def samples(self) -> int:
        return max(1, sum(task.samples for task in self.tasks))


class Flights:
    """The launched calls of one replica.

    Args:
        host: Whose they are.
        executor: What launches them.
        credit: Learns how long they took.
        stager: Writes large results to files.
    """

    def __init__(self, host: Host, executor: Executor, credit: Credit, stager: Stager) -> None:
        self.count = 0
        """How many are in flight."""
        self._host = host
        self._executor = executor
        self._credit = credit
        self._stager = stager
        self._flying: deque[_Launched] = deque()
        self._landed_at = 0.0
        self._launch_s = 0.0

    def wait_s(self, group: Group, inbox: Inbox[Task], sizes: Sizes, now: float) -> float:
        """In how many seconds something of this group is begun beside what is in flight; infinite: when one ends."""
        if self.count >= AT_ONCE:
            return math.inf
        if group is UNBATCHED or group[0] not in self._executor.launching:
            return 0.0
        if inbox.fills(group, sizes.of(group).limit):
            return 0.0
        first = self._flying[0]
        line = None if first.size is None else first.size.model.line
        expected_s = None if line is None else line.seconds(first.samples)
        return launch_in_s(now - self._began(first), expected_s, self._launch_s)

    def launch(self, tasks: Sequence[Task], size: BatchSize | None, *, full: bool) -> None:
        """Launches a call for one request, or for several together."""
        at = time.monotonic()
        if self._flying:
            self._watch(self._flying[0], tasks)
        else:
            self._host.flies(tasks, (), _deadline(tasks, at))
        work, method = tasks[0].work, tasks[0].method
        if len(tasks) == 1:
            flight = self._executor.launch(
                method, work.tensors, tasks[0].tensors, work.parameters, self._stager.outlet(tasks[0].key, work)
            )
        else:
            requests = [(task.work.tensors, task.tensors) for task in tasks]
            outlets = [self._stager.outlet(task.key, task.work) for task in tasks]
            flight = self._executor.launch_together(method, requests, work.parameters, outlets)
        self._launch_s = time.monotonic() - at
        self._flying.append(_Launched(tasks, size, full, flight, at, set()))
        self.count += 1

    def land_done(self) -> None:
        """Answers those that have ended."""
        while self._flying and self._flying[0].flight.done():
            self._land()

    def land_all(self) -> None:
        """Answers all, and waits for them."""
        while self._flying:
            self._land()

    def pause_s(self, now: float) -> float:
        """How long to sleep before they are looked at again."""
        return pause_s(now - self._began(self._flying[0]))

    def _began(self, first: _Launched) -> float:
        """When the device took up what is the first in flight: before that it may have had another to end."""
        return max(first.at, self._landed_at)

    def _land(self) -> None:
        first = self._flying[0]
        outcomes, too_many = first.flight.land(self._host.gave_up)
        run_s = self._host.ran(self._began(first))
        self._landed_at = time.monotonic()
        self._flying.popleft()
        self.count -= 1
        self._learn(first, run_s, too_many, failed=any(each.error is not None for each in outcomes))
        for task, outcome in zip(first.tasks, outcomes, strict=True):
            if task.key not in first.late:
                self._host.finish(task, outcome, int(run_s * 1e6))
        if self._flying:
            self._answer_late(self._flying[0])
            behind = [task for each in itertools.islice(self._flying, 1, None) for task in each.tasks]
            self._watch(self._flying[0], behind)

    def _watch(self, first: _Launched, behind: Sequence[Task]) -> None:
        """Those that were answered do not count: what is computed with them may have until its own deadline."""
        due = [task for task in first.tasks if task.key not in first.late]
        self._host.flies(due or first.tasks, behind, _deadline(due, self._began(first)))

    def _answer_late(self, flying: _Launched) -> None:
        """Answers those whose deadline has passed before the device took them up: the broker must not see a hang."""
        for task in flying.tasks:
            if task.deadline <= self._landed_at:
                flying.late.add(task.key)
                self._host.finish(task, late(), 0)

    def _learn(self, done: _Launched, run_s: float, too_many: int, *, failed: bool) -> None:
        size, requests = done.size, len(done.tasks)
        if size is None:
            self._credit.ran(run_s)
            return
        self._host.learned()
        if too_many:
            size.out_of_memory(too_many)
        elif not failed:
            size.ran(done.samples, run_s, full=done.full, requests=requests)
        self._credit.ran_together(requests, done.samples, run_s, size.limit, batches=AT_ONCE + 1)


def _deadline(tasks: Sequence[Task], began: float) -> float:
    """Until when these may compute that have begun. What was late when it began is not yet a hang."""
    return max(began, min((task.deadline for task in tasks), default=began))
