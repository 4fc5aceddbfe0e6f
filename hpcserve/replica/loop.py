"""The replica's one loop: drain the socket, run the next batch, send its results (design §3).

There is no second Python thread: libzmq keeps the connection alive during a long call. A servable that can launch
a call lets the loop go on meanwhile: see :mod:`hpcserve.replica.flights`. What is kept, and
what is dropped, :mod:`hpcserve.core.holdings` decides; which requests make a batch, :mod:`hpcserve.core.batching`.
"""

from __future__ import annotations

import functools
import math
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence

from hpcserve.core.batching import UNBATCHED, BatchSize, Group, Inbox, Policy, Sizes
from hpcserve.core.credit import Credit
from hpcserve.core.holdings import Holdings
from hpcserve.core.ledger import NEVER
from hpcserve.errors import Cancelled, HpcserveError, InvalidInput, ProtocolError
from hpcserve.replica.alarm import IDLE_MS, Alarm
from hpcserve.replica.executor import Executor, Outcome, failed, late, too_large
from hpcserve.replica.flights import Flights
from hpcserve.replica.gauge import Gauge
from hpcserve.replica.link import Link, Tensor
from hpcserve.replica.references import References
from hpcserve.replica.says import Says
from hpcserve.replica.staged import Stager
from hpcserve.replica.start import Lifeline
from hpcserve.replica.streams import Streams
from hpcserve.replica.task import Task
from hpcserve.replica.together import lacks_memory
from hpcserve.types import Epoch, RequestKey
from hpcserve.wire import messages as wire
from hpcserve.wire.frames import MAX_OWN_HEADER_BYTES, decode_to_replica
from hpcserve.wire.launch import StagingRules

LOOK_EVERY_S = 0.002  # while there is work, the socket is looked at so often
DRAIN = 256
TELL_EVERY_S = 1.0
POLL_S = 0.001
ASK_EVERY_S = 0.001
NO_STAGING = StagingRules()
UNCONNECTED_S = 2.0
"""A replica that has had no connection for so long since its setup is ready all the same: the daemon may be away."""


def _never() -> None:
    """The ranks of a replica that has only one."""


class Replica:
    """One running copy of a deployment, seen from its rank 0.

    ``ready`` is called once, when the broker can give it work: whoever it takes over from gets none from then on.
    ``why_broken``: why its ranks can compute nothing more, if they cannot; then it ends.
    """

    def __init__(
        self,
        link: Link,
        executor: Executor,
        lifeline: Lifeline,
        alarm: Alarm,
        gauge: Gauge,
        *,
        replica: str,
        version: str,
        image: str,
        outbox_bytes: int,
        policy_of: Callable[[str], Policy],
        staging: StagingRules = NO_STAGING,
        servable: str = "",
        ready: Callable[[], None],
        why_broken: Callable[[], HpcserveError | None] = _never,
    ) -> None:
        self._ready = ready
        self._why_broken = why_broken
        self._version = version
        self._ready_at = time.monotonic() + UNCONNECTED_S
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe()
        self._poller = select.poll()
        self._polled: object = self
        self._socket_fd = self._monitor_fd = -1
        self._link = link
        self._executor = executor
        self._lifeline = lifeline
        self._alarm = alarm
        self._gauge = gauge
        self._holdings = Holdings(outbox_bytes)
        self._largest_bytes = max(outbox_bytes, MAX_OWN_HEADER_BYTES)
        self._credit = Credit()
        self._most = 1
        self._inbox: Inbox[Task] = Inbox()
        self._sizes = Sizes(policy_of)
        self._company_until = 0.0
        self._group: Group = UNBATCHED
        self._thread = threading.get_ident()
        self._running: Sequence[Task] = ()
        self._gave_up = self._lost = False
        self._asking = threading.Lock()
        self._ask_at = 0.0
        self._tell_at = 0.0
        self._streams = Streams(
            self,
            executor,
            link,
            replica=replica,
            version=version,
            image=image,
            budget_bytes=max(1, outbox_bytes // 2),
        )
        self._references = References(staging)
        self._stager = Stager(
            staging,
            servable=servable,
            version=version,
            replica=replica,
            image=image,
            most_inline_bytes=self._largest_bytes,
        )
        self._flights = Flights(self, executor, self._credit, self._stager)
        self._says = Says(
            link, self._holdings, self._credit, self._streams, replica=replica, version=version, image=image
        )

    def stop(self) -> None:
        """Ends :meth:`run` after the request that runs now. May be called from a signal handler, and by any thread."""
        self._stopping = True
        os.write(self._wake_write, b"s")

    def run(self) -> None:
        """Serves until the agent is gone or asks to stop; what runs then is finished first, but for streams."""
        self._serve()
        self._flights.land_all()
        self._streams.close()

    def _serve(self) -> None:
        look_at = 0.0
        streams, flights = self._streams, self._flights
        while not self._stopping:
            if flights.count:
                flights.land_done()
            ready = self._may_run()
            if not (ready or streams.ready) or time.monotonic() >= look_at:
                if not self._look(wait=not (ready or streams.ready)):
                    return
                if self._is_broken():  # by the end of a stream
                    return
                look_at = time.monotonic() + LOOK_EVERY_S
                ready = self._may_run()  # what has just come may be more urgent
            if ready:
                self._run_next()
                if self._is_broken():
                    return  # what is left is run elsewhere: nobody is told another's error
            if streams.ready:
                flights.land_all()
                streams.go_on()
            if self._is_broken():
                return

    def _is_broken(self) -> bool:
        return self._why_broken() is not None

    def fail(self, error: HpcserveError) -> None:
        """What runs now fails, said by another thread in place of this one, which will never return from it.

        Only for what runs alone: of several requests, and of a stream that has begun, the broker decides as after a
        crash. The servable may ask at the same time whether it is waited for: from now on nobody is.
        """
        with self._asking:
            self._lost = True
            if len(self._running) > 1:
                self._lose_batch(self._running, error)
            elif len(self._running) == 1 and not self._streams.has_begun(self._running[0].key):
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
            self._drain(more=True)
        wanted = self._holdings.is_wanted
        waited_for = any(wanted(task.key) and task.deadline > now for task in self._running)
        self._gave_up = bool(self._running) and not waited_for

    # --- the socket -----------------------------------------------------------------------------------

    def _look(self, *, wait: bool) -> bool:
        """Takes what has arrived, waiting for it if there is nothing to do. False: the agent is gone."""
        link = self._link
        link.connect()
        now = time.monotonic()
        if now >= self._gauge.due_at:
            self._says.devices(self._gauge.read())
        if now >= self._tell_at:
            self._tell_at = now + TELL_EVERY_S
            self._says.learned(self._sizes)
        new = self._polled is not link.socket
        if new:
            self._watch_link()
        # A descriptor tells nothing before its socket was first asked, and not of what our own sends have taken in.
        has_message = link.has_message()
        ready = dict(self._poller.poll(0) if new or has_message or not wait else self._wait())
        if self._lifeline.fd in ready and self._lifeline.is_cut():
            return False
        if has_message or self._socket_fd in ready:
            self._drain(more=has_message)
        if (new or self._monitor_fd in ready) and link.watch():
            self._send_inventory()
            if self._ready_at < math.inf:
                self._ready_at = now
        if now >= self._ready_at:
            self._ready_at = math.inf
            self._ready()
        if self._streams.look_at < math.inf:
            self._streams.look()
        return True

    def _wait(self) -> list[tuple[int, int]]:
        """Sleeps until there is something to do; the alarm is not taken off for every short pause."""
        if self._flights.count:
            return self._nap()
        timeout_ms = self._link.timeout_ms()
        until = self._tell_at if self._says.has_news else math.inf
        if self._inbox.count and not self._holdings.is_full:
            until = min(until, self._company_until)
        until = min(until, self._streams.look_at, self._ready_at, self._gauge.due_at)
        if until < math.inf:
            left_ms = max(0, math.ceil((until - time.monotonic()) * 1000))
            timeout_ms = left_ms if timeout_ms is None else min(timeout_ms, left_ms)
        if self._alarm.set_for != NEVER:
            timeout_ms = IDLE_MS if timeout_ms is None else min(timeout_ms, IDLE_MS)
        ready = self._poller.poll(timeout_ms)
        if not ready:
            self._alarm.rest()
        return ready

    def _nap(self) -> list[tuple[int, int]]:
        """Sleeps for a moment, or until a message comes: something is in flight. The alarm stays on."""
        self.gave_up()  # the servable's own threads may ask
        pause_s = self._flights.pause_s(time.monotonic())
        if pause_s >= POLL_S:
            return self._poller.poll(POLL_S * 1000)
        time.sleep(pause_s)  # poll(2) counts in milliseconds
        return self._poller.poll(0)

    def _watch_link(self) -> None:
        """The link has another socket, or none: what is watched is made anew."""
        link = self._link
        self._polled = link.socket
        self._socket_fd = -1 if link.socket is None else int(link.socket.FD)
        self._monitor_fd = -1 if link.monitor is None else int(link.monitor.FD)
        self._poller = select.poll()
        for descriptor in (self._lifeline.fd, self._wake_read, self._socket_fd, self._monitor_fd):
            if descriptor >= 0:
                self._poller.register(descriptor, select.POLLIN)

    def _drain(self, *, more: bool) -> None:
        """Takes one message, and twice as many each time while there are more: reading an empty socket is dear."""
        self._most = min(2 * self._most, DRAIN) if more else 1
        for taken in range(self._most):
            message = self._link.receive()
            if message is None:
                self._most = max(1, taken)
                return
            self._take(*message)
            if self._link.socket is None:
                return

    def _take(self, header: bytes, tensors: list[Tensor]) -> None:
        try:
            message = decode_to_replica(header)
        except ProtocolError as error:
            sys.stderr.write(f"the daemon sent what cannot be read: {error}\n")
            self._link.close()
            return
        if type(message) is wire.Work:
            self._take_work(message, tensors)
        elif type(message) is wire.Release:
            self._release(message.keys)
        elif type(message) is wire.MoreFor:
            self._streams.more((message.session, message.id), message.received, again=message.again)
        elif type(message) is wire.Fetch:
            self._fetch(message.keys)
        elif type(message) is wire.GiveBack:
            self._give_back(message.epoch, message.most)
        elif type(message) is wire.Census:
            self._holdings.census(message.epoch, message.fence)
            self._send_inventory()
        elif type(message) is wire.Tune:
            objective_s = None if message.objective_ms is None else message.objective_ms / 1000
            self._sizes.tune(objective_s, message.max_batch_size)
            fits = (each for each in message.fits if each.version == self._version)
            self._sizes.fit({(each.method, each.inputs): each.samples for each in fits})
            self._says.says_runs = message.kill_cancelled_s is not None
        elif type(message) is wire.WhoAreYou:
            self._send_inventory()
        elif type(message) is wire.Refused:
            sys.stderr.write(f"the daemon refused this replica: {message.error.message}\n")
            self._link.close()

    def _take_work(self, work: wire.Work, tensors: list[Tensor]) -> None:
        if work.releases:
            self._release(work.releases)
        key = (work.session, work.id)
        if self._holdings.take(work.epoch, work.seq, key):
            left = work.remaining_ms
            now = time.monotonic()
            deadline = NEVER if left is None else now + left / 1000
            method = self._executor.method(work.method)
            group, samples = self._executor.group(method, work.tensors, work.parameters)
            task = Task(key, work, method, work.enclosed or tensors, deadline, samples)
            if work.references or (work.window is not None and not self._executor.is_stream(method)):
                group = UNBATCHED  # it is not to share a batch: reading them, or opening it, will tell what is wrong
            self._inbox.push(task, group, samples=samples, priority=work.priority, deadline=deadline, now=now)

    def _release(self, keys: Sequence[RequestKey]) -> None:
        for key in keys:
            self._holdings.release(key)
        if self._streams.kept:
            self._streams.release(keys)
        if self._says.is_full and not self._holdings.is_full:
            self._says.credit()

    def _fetch(self, keys: Sequence[RequestKey]) -> None:
        all_held = True
        for key in keys:
            all_held &= self._holdings.want(key)
            result = self._holdings.result(key)
            if isinstance(result, Outcome):
                self._says.result(key, result, 0)
        if not all_held:
            self._send_inventory()

    def _give_back(self, epoch: Epoch, most: int) -> None:
        """Lets go of what has not begun. What an earlier broker gave is kept: to the present one it may have run."""
        for task in self._inbox.give_back(most, lambda task: task.work.epoch == epoch):
            self._holdings.drop(task.key)
        self._send_inventory()

    # --- the work -------------------------------------------------------------------------------------

    def _may_run(self) -> bool:
        """Whether something is to be run now. A batch may wait a little for company."""
        if not self._inbox.count or self._holdings.is_full:
            return False
        now = time.monotonic()
        self._group, wait_s = self._inbox.next(self._sizes, now)
        if self._flights.count:
            wait_s = max(wait_s, self._flights.wait_s(self._group, self._inbox, self._sizes, now))
        if wait_s <= 0:
            return True
        self._company_until = now + wait_s
        return False

    def _run_next(self) -> None:
        """Runs what :meth:`_may_run` has found."""
        group = self._group
        if group is UNBATCHED:
            (task,), _ = self._inbox.take(group, 1)
            if self._is_due(task) and self._has_read(task):
                if task.work.window is None:
                    self._run(task)
                else:
                    self._flights.land_all()
                    self._streams.open(task, task.work.window)
            return
        size = self._sizes.of(group)
        taken, full = self._inbox.take(group, size.limit, size.policy.preferred)
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
        return self._holdings.is_wanted(task.key)

    def _is_due(self, task: Task) -> bool:
        """Whether a request is to be run; if not, it is answered here."""
        if not self._holdings.is_wanted(task.key):
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
        if not self._flights.count:
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
        self._holdings.drop(task.key)
        self._rest()
        self._says.result(task.key, failed(Cancelled("the request was taken back before it ran")), 0)

    def _rest(self) -> None:
        if not self._flights.count:
            self._alarm.rest()

    def _run(self, task: Task, size: BatchSize | None = None, *, full: bool = False) -> None:
        """Runs one request alone. ``size``: of the batches that it could have been in."""
        if task.method in self._executor.launching:
            self._flights.launch((task,), size, full=full)
            return
        if self._flights.count:
            self._flights.land_all()
        work = task.work
        began = self.begin((task,))
        outlet = self._stager.outlet(task.key, work) if work.stage else None
        outcome = self._executor.run(task.method, work.tensors, task.tensors, work.parameters, outlet)
        run_s = self.ran(began)
        if size is not None:
            self._says.has_news = True
            if outcome.error is None:
                size.ran(max(1, task.samples), run_s, full=full)
        if size is None or size.limit == 1:
            self._credit.ran(run_s)
        else:
            self._credit.ran_together(1, task.samples, run_s, size.limit)
        self.finish(task, outcome, int(run_s * 1e6))

    def _run_together(self, tasks: list[Task], size: BatchSize, *, full: bool) -> None:
        if tasks[0].method in self._executor.launching:
            self._flights.launch(tasks, size, full=full)
            return
        if self._flights.count:
            self._flights.land_all()
        work = tasks[0].work
        samples = sum(task.samples for task in tasks)
        began = self.begin(tasks)
        requests = [(task.work.tensors, task.tensors) for task in tasks]
        outlets = [self._stager.outlet(task.key, task.work) for task in tasks]
        outcomes, too_many = self._executor.run_together(
            tasks[0].method, requests, work.parameters, self.gave_up, outlets
        )
        run_s = self.ran(began)
        broken = self._why_broken()
        if broken is not None:
            self._lose_batch(tasks, broken)
            return
        self._says.has_news = True
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
            self._says.out_of_memory(self._group, sum(task.samples for task in tasks))

    def flies(self, tasks: Sequence[Task], behind: Sequence[Task], deadline: float) -> None:
        """What was launched is computed now, until ``deadline``; what is ``behind`` it waits for the device."""
        self._running, self._gave_up = (*tasks, *behind), False
        self._says.runs(tasks)
        self._alarm.watch(deadline)

    def begin(self, tasks: Sequence[Task]) -> float:
        """Something is run from now on; returns when that is. What is late by then, as a stream's end, is no hang."""
        self._running, self._gave_up = tasks, False
        self._says.runs(tasks)
        deadline = tasks[0].deadline if len(tasks) == 1 else min(task.deadline for task in tasks)
        began = time.monotonic()
        self._alarm.watch(max(began, deadline))
        return began

    def ran(self, began: float) -> float:
        """How long something ran that is over now."""
        self._running = ()
        run_s = time.monotonic() - began
        if run_s >= LOOK_EVERY_S:
            self._most = DRAIN  # meanwhile some of what waits may have been taken back: that is read first
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
        self._holdings.finish(task.key, outcome, size_bytes)
        self._says.result(task.key, outcome, run_us)

    def learned(self) -> None:
        """There is something new to tell of batches."""
        self._says.has_news = True

    def tell_credit(self) -> None:
        """More, or less, is wanted than before."""
        self._says.credit()

    def _send_inventory(self) -> None:
        self._says.inventory(self._remaining_ms(), self._running)

    def _remaining_ms(self) -> tuple[int | None, ...]:
        """For each unfinished request: what runs, where the servable asks while it does, and what is in the inbox."""
        now = time.monotonic()
        deadlines = {task.key: task.deadline for task in (*self._running, *self._inbox.tasks(), *self._streams.tasks())}
        left_s = (deadlines[key] - now for key in self._holdings.unfinished)
        return tuple(None if left == NEVER else int(left * 1000) for left in left_s)
