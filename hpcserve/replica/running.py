"""What a replica runs, out of what it was sent: one request, several together, a launched call or a stream's turn.

Which requests make a batch, and how long one waits for company, :mod:`hpcserve.core.batching` decides. A servable that
can launch a call lets others be read meanwhile: see :mod:`hpcserve.replica.flights`.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence

from hpcserve.core.batching import UNBATCHED, BatchSize, Group, Inbox, Policy, Sizes
from hpcserve.core.credit import Credit
from hpcserve.core.holdings import Holdings
from hpcserve.core.ledger import NEVER
from hpcserve.errors import Cancelled, HpcserveError, InvalidInput
from hpcserve.replica.alarm import Alarm
from hpcserve.replica.executor import Executor
from hpcserve.replica.flights import Flights
from hpcserve.replica.intake import DRAIN, Intake
from hpcserve.replica.link import Link
from hpcserve.replica.outcome import Outcome, failed, late, too_large
from hpcserve.replica.references import References
from hpcserve.replica.says import Says
from hpcserve.replica.staged import Stager
from hpcserve.replica.streams import Streams
from hpcserve.replica.task import Task
from hpcserve.replica.together import lacks_memory
from hpcserve.wire.frames import MAX_OWN_HEADER_BYTES
from hpcserve.wire.launch import StagingRules

LOOK_EVERY_S = 0.002  # while there is work, the socket is looked at so often
ASK_EVERY_S = 0.001
NO_STAGING = StagingRules()


def _never() -> None:
    """The ranks of a replica that has only one."""


class Running:
    """The requests of one replica, from their arrival to their end, seen from its rank 0.

    Args:
        link: By which they come, and their results leave.
        executor: What runs them.
        alarm: Watches what runs.
        replica: The replica's id.
        version: Its servable's.
        image: The sha256 of its container image, or empty.
        outbox_bytes: Results are kept up to so many bytes until they are acknowledged.
        policy_of: What the servable says of a method's batches.
        staging: Where large results are written.
        servable: Its name.
        why_broken: Why its ranks can compute nothing more, if they cannot.

    Attributes:
        company_until: When what :meth:`may_run` would not run yet is run all the same, in monotonic seconds.
    """

    def __init__(
        self,
        link: Link,
        executor: Executor,
        alarm: Alarm,
        *,
        replica: str,
        version: str,
        image: str,
        outbox_bytes: int,
        policy_of: Callable[[str], Policy],
        staging: StagingRules = NO_STAGING,
        servable: str = "",
        why_broken: Callable[[], HpcserveError | None] = _never,
    ) -> None:
        self.why_broken = why_broken
        self.company_until = 0.0
        self._link = link
        self._executor = executor
        self._alarm = alarm
        self._largest_bytes = max(outbox_bytes, MAX_OWN_HEADER_BYTES)
        self._credit = Credit()
        self._group: Group = UNBATCHED
        self._thread = threading.get_ident()
        self._running: Sequence[Task] = ()
        self._gave_up = self._lost = False
        self._asking = threading.Lock()
        self._ask_at = 0.0
        self._references = References(staging)
        self._stager = Stager(
            staging,
            servable=servable,
            version=version,
            replica=replica,
            image=image,
            most_inline_bytes=self._largest_bytes,
        )
        names = {"replica": replica, "version": version, "image": image}
        self.holdings = Holdings(outbox_bytes)
        self.inbox: Inbox[Task] = Inbox()
        self.sizes = Sizes(policy_of)
        self.streams = Streams(self, executor, link, **names, budget_bytes=max(1, outbox_bytes // 2))
        self.flights = Flights(self, executor, self._credit, self._stager)
        self.says = Says(link, self.holdings, self._credit, self.streams, **names)
        self.intake = Intake(
            link,
            executor,
            holdings=self.holdings,
            inbox=self.inbox,
            sizes=self.sizes,
            streams=self.streams,
            says=self.says,
            version=version,
            inventory=self.inventory,
        )

    # --- whoever waits --------------------------------------------------------------------------------

    def fail(self, error: HpcserveError) -> None:
        """What runs now fails, said by another thread in place of this one, which will never return from it.

        Only for what runs alone: of several requests, and of a stream that has begun, the broker decides as after a
        crash. The servable may ask at the same time whether it is waited for: from now on nobody is.
        """
        with self._asking:
            self._lost = True
            if len(self._running) > 1:
                self._lose_batch(self._running, error)
            elif len(self._running) == 1 and not self.streams.has_begun(self._running[0].key):
                self.finish(self._running[0], failed(error), 0)

    def gave_up(self) -> bool:
        """Whether nobody waits any more for what runs now. The servable asks while it runs."""
        if threading.get_ident() == self._thread:
            now = time.monotonic()
            if now >= self._ask_at:
                self._ask_at = now + ASK_EVERY_S
                with self._asking:
                    self._ask(now)
        return self._gave_up or self._lost

    def _ask(self, now: float) -> None:
        if self._lost:
            return  # the socket is another thread's
        while self._link.has_message():
            self.intake.drain(more=True)
        wanted = self.holdings.is_wanted
        waited_for = any(wanted(task.key) and task.deadline > now for task in self._running)
        self._gave_up = bool(self._running) and not waited_for

    # --- the work -------------------------------------------------------------------------------------

    def may_run(self) -> bool:
        """Whether something is to be run now. A batch may wait a little for company."""
        if not self.inbox.count or self.holdings.is_full:
            return False
        now = time.monotonic()
        self._group, wait_s = self.inbox.next(self.sizes, now)
        if self.flights.count:
            wait_s = max(wait_s, self.flights.wait_s(self._group, self.inbox, self.sizes, now))
        if wait_s <= 0:
            return True
        self.company_until = now + wait_s
        return False

    def run_next(self) -> None:
        """Runs what :meth:`may_run` has found."""
        group = self._group
        if group is UNBATCHED:
            (task,), _ = self.inbox.take(group, 1)
            if self._is_due(task) and self._has_read(task):
                if task.work.window is None:
                    self._run(task)
                else:
                    self.flights.land_all()
                    self.streams.open(task, task.work.window)
            return
        size = self.sizes.of(group)
        taken, full = self.inbox.take(group, size.limit, size.policy.preferred)
        if len(taken) == 1:
            if self._is_due(taken[0]):
                self._run(taken[0], size, full=full)
            return
        tasks = [task for task in taken if self._is_due(task)]
        if len(tasks) == 1:
            self._run(tasks[0], size, full=full)
        elif tasks:
            self._run_together(tasks, size, full=full)

    def is_wanted(self, task: Task) -> bool:
        """Whether somebody still waits for a request."""
        return self.holdings.is_wanted(task.key)

    def _is_due(self, task: Task) -> bool:
        """Whether a request is to be run; if not, it is answered here."""
        if not self.holdings.is_wanted(task.key):
            self._drop(task)
            return False
        if task.deadline <= time.monotonic():
            self._rest()  # a stream of what is not run must not let the last one's alarm go off
            self.finish(task, late(), 0)
            return False
        return True

    def _has_read(self, task: Task) -> bool:
        """Whether a request has its references' content now; if not, it is answered here."""
        if not task.work.references:
            return True
        if not self.flights.count:
            self._alarm.watch(task.deadline)  # a read from a file system that does not answer lasts for ever
        try:
            task.work, task.tensors = self._references.read(
                task.work,
                task.tensors,
                functools.partial(self._executor.check, task.method),
                deadline=task.deadline,
            )
        except (HpcserveError, MemoryError) as error:
            told = error if isinstance(error, HpcserveError) else InvalidInput(f"no memory for its references: {error}")
            self._rest()
            self.finish(task, failed(told), 0)
            return False
        return self._is_due(task)

    def _drop(self, task: Task) -> None:
        # The broker alone reads this: it settles what it told us to release.
        self.holdings.drop(task.key)
        self._rest()
        self.says.result(task.key, failed(Cancelled("the request was taken back before it ran")), 0)

    def _rest(self) -> None:
        if not self.flights.count:
            self._alarm.rest()

    def _run(self, task: Task, size: BatchSize | None = None, *, full: bool = False) -> None:
        """Runs one request alone. ``size``: of the batches that it could have been in."""
        if task.method in self._executor.launching:
            self.flights.launch((task,), size, full=full)
            return
        if self.flights.count:
            self.flights.land_all()
        work = task.work
        began = self.begin((task,))
        outlet = self._stager.outlet(task.key, work) if work.stage else None
        outcome = self._executor.run(task.method, work.tensors, task.tensors, work.parameters, outlet)
        run_s = self.ran(began)
        if size is not None:
            self.says.has_news = True
            if outcome.error is None:
                size.ran(max(1, task.samples), run_s, full=full)
        if size is None or size.limit == 1:
            self._credit.ran(run_s)
        else:
            self._credit.ran_together(1, task.samples, run_s, size.limit)
        self.finish(task, outcome, int(run_s * 1e6))

    def _run_together(self, tasks: list[Task], size: BatchSize, *, full: bool) -> None:
        if tasks[0].method in self._executor.launching:
            self.flights.launch(tasks, size, full=full)
            return
        if self.flights.count:
            self.flights.land_all()
        work = tasks[0].work
        samples = sum(task.samples for task in tasks)
        began = self.begin(tasks)
        requests = [(task.work.tensors, task.tensors) for task in tasks]
        outlets = [self._stager.outlet(task.key, task.work) for task in tasks]
        outcomes, too_many = self._executor.run_together(
            tasks[0].method, requests, work.parameters, self.gave_up, outlets
        )
        run_s = self.ran(began)
        broken = self.why_broken()
        if broken is not None:
            self._lose_batch(tasks, broken)
            return
        self.says.has_news = True
        if too_many:
            size.out_of_memory(too_many)
        elif all(outcome.error is None for outcome in outcomes):
            size.ran(max(1, samples), run_s, full=full, requests=len(tasks))
        self._credit.ran_together(len(tasks), samples, run_s, size.limit)
        for task, outcome in zip(tasks, outcomes, strict=True):
            self.finish(task, outcome, int(run_s * 1e6))

    def _lose_batch(self, tasks: Sequence[Task], error: HpcserveError) -> None:
        """The ranks are lost for it. As after a crash the broker has them run one by one: nobody fails for a mate."""
        if lacks_memory(error):
            self.says.out_of_memory(self._group, sum(task.samples for task in tasks))

    def flies(self, tasks: Sequence[Task], behind: Sequence[Task], deadline: float) -> None:
        """What was launched is computed now, until ``deadline``; what is ``behind`` it waits for the device."""
        self._running, self._gave_up = (*tasks, *behind), False
        self.says.runs(tasks)
        self._alarm.watch(deadline)

    def begin(self, tasks: Sequence[Task]) -> float:
        """Something is run from now on; returns when that is. What is late by then, as a stream's end, is no hang."""
        self._running, self._gave_up = tasks, False
        self.says.runs(tasks)
        deadline = tasks[0].deadline if len(tasks) == 1 else min(task.deadline for task in tasks)
        began = time.monotonic()
        self._alarm.watch(max(began, deadline))
        return began

    def ran(self, began: float) -> float:
        """How long something ran that is over now."""
        self._running = ()
        run_s = time.monotonic() - began
        if run_s >= LOOK_EVERY_S:
            self.intake.most = DRAIN  # meanwhile some of what waits may have been taken back: that is read first
        return run_s

    def finish(self, task: Task, outcome: Outcome | None, run_us: int, items: int | None = None) -> None:
        """A request has its result, or nobody wants it; ``items``: as the end of a stream that had so many."""
        if outcome is None:
            self._drop(task)
            return
        size_bytes = outcome.size_bytes
        if size_bytes > self._largest_bytes:
            outcome = too_large(task.method, size_bytes, self._largest_bytes)
            size_bytes = outcome.size_bytes
        outcome.items = items
        self.holdings.finish(task.key, outcome, size_bytes)
        self.says.result(task.key, outcome, run_us)

    def learned(self) -> None:
        """There is something new to tell of batches."""
        self.says.has_news = True

    def tell_credit(self) -> None:
        """More, or less, is wanted than before."""
        self.says.credit()

    def inventory(self) -> None:
        """Has all told that is held."""
        self.says.inventory(self._remaining_ms(), self._running)

    def _remaining_ms(self) -> tuple[int | None, ...]:
        """For each unfinished request: what runs, where the servable asks while it does, and what is in the inbox."""
        now = time.monotonic()
        deadlines = {task.key: task.deadline for task in (*self._running, *self.inbox.tasks(), *self.streams.tasks())}
        left_s = (deadlines[key] - now for key in self.holdings.unfinished)
        return tuple(None if left == NEVER else int(left * 1000) for left in left_s)
