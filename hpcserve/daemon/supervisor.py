"""The daemon's first process: starts the others, starts them again, and takes them down in order.

It holds no service of its own, so that it has no reason to die: one thread, one poll, and between events it
wakes up only to renew the lease. Its children are in sessions of their own and hold a lifeline to it, so
that none outlives it.

Going down: the controller first, which ends the pilots; then the broker and admission. A controller that does not
get that done in its time is killed, and another one goes on with it; should that one fail too, the supervisor leaves
word that pilots may go on. A controller that ends by itself with exit code 0 asks for the same. When a lease is lost,
everything is killed at once: the pilots are the successor's now. Of a daemon that runs in a job, a controller that was
not told to by ``hpcserve down`` leaves the pilots to the next one.
"""

from __future__ import annotations

import enum
import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from hpcserve.auth.keys import KeyPair
from hpcserve.cluster.processes import exit_in_words
from hpcserve.cluster.signals import Signals
from hpcserve.config import Site, runtime_dir
from hpcserve.core.lease import broker_epoch
from hpcserve.core.restarts import GiveUp, Restarts
from hpcserve.daemon import farewell, leftovers
from hpcserve.daemon.attention import attend
from hpcserve.daemon.child import Child
from hpcserve.daemon.launch import ChildError
from hpcserve.daemon.lease import HeldLease, is_taken
from hpcserve.daemon.logs import last_line, log_path
from hpcserve.daemon.plans import BROKER, CONTROLLER, Plan
from hpcserve.daemon.preparation import make_runtime_dir
from hpcserve.daemon.publication import Publication
from hpcserve.daemon.record import record_path
from hpcserve.daemon.standstill import Standstill
from hpcserve.daemon.starter import Starter
from hpcserve.daemon.timing import Timing
from hpcserve.errors import Conflict, HpcserveError
from hpcserve.types import Epoch

_log = logging.getLogger(__name__)

EXIT_DOWN, EXIT_FAILED, EXIT_LEASE_LOST = 0, 1, 3


class _Phase(enum.Enum):
    RUNNING = enum.auto()
    CONTROLLER_ENDS = enum.auto()
    OTHERS_END = enum.auto()
    OVER = enum.auto()


class Supervisor:
    """The daemon that holds the lease."""

    def __init__(
        self,
        site: Site,
        plans: Iterable[Plan],
        *,
        keys: KeyPair,
        lease: HeldLease,
        starter: Starter,
        signals: Signals,
        timing: Timing,
    ) -> None:
        self._site = site
        self._lease = lease
        self._starter = starter
        self._signals = signals
        self._timing = timing
        self._children = {
            plan.name: Child(plan, log_path(site.shared_dir, plan.name), Restarts(timing.restarts)) for plan in plans
        }
        self._publication = Publication(site, keys, lease.pid, starter)
        self._standstill = Standstill(timing.stopped_s)
        self._phase = _Phase.RUNNING
        self._is_second_end = False
        self._pilots_are_seen_to = False
        self._warned_pid: int | None = None
        self._broker_starts = 0
        self._sockets: Path | None = None
        self._failure: HpcserveError | None = None
        self._exit_code = EXIT_DOWN
        self._renew_at = time.monotonic() + lease.every_s
        self._phase_ends_at = float("inf")

    def run(self) -> int:
        """Runs until all children have ended; returns the exit code."""
        now = time.monotonic()
        try:
            self._sockets = make_runtime_dir(self._site)
        except HpcserveError as error:
            self._fail(error, now)
        for child in self._children.values():
            if self._phase is _Phase.RUNNING and not self._asked_to_stop():
                self._start(child, now)
        self._step(time.monotonic())
        while self._phase is not _Phase.OVER:
            attend(self._signals, self._starter, self._due() - time.monotonic(), self._reports())
            self._step(time.monotonic())
        self._finish()
        return self._exit_code

    # --- what happens ---------------------------------------------------------------------------

    def _reports(self) -> Iterable[tuple[int, Callable[[], None]]]:
        for child in self._children.values():
            if child.report_fd is not None:
                yield child.report_fd, partial(self._hear, child)

    def _step(self, now: float) -> None:
        """Acts on what happened, and on the time."""
        # First: who has stood still may be the holder no more, and must not end a successor's pilots.
        if now >= self._renew_at:
            self._renew(now)
        for child in self._children.values():
            code = child.reap()
            if code is not None:
                self._ended(child, code, now)
        controller = self._children[CONTROLLER]
        # Of a daemon in a job: it submits the next one, and ends. Before it is ready, it would be killed by the signal.
        if self._signals.warned and controller.ready and controller.pid != self._warned_pid:
            self._warned_pid = controller.pid
            controller.signal(signal.SIGUSR1)
        if self._asked_to_stop() and self._phase is _Phase.RUNNING:
            self._go_down(self._signals.stop or self._starter.gone, now)
        self._standstill.look(self._children.values(), now, at_once=self._phase is not _Phase.RUNNING)
        for child in self._children.values():
            self._look_after(child, now)
        self._advance(now)

    def _due(self) -> float:
        """When :meth:`_step` has something to do, even if nothing happens."""
        times = [self._renew_at, self._phase_ends_at]
        for child in self._children.values():
            if child.restart_at is not None:
                times.append(child.restart_at)
            elif self._phase is _Phase.RUNNING and child.pid is not None and not child.ready:
                times.append(child.started_at + self._timing.ready_s)
        return min(times)

    def _asked_to_stop(self) -> bool:
        return bool(self._signals.stop or self._starter.gone)

    # --- children -------------------------------------------------------------------------------

    def _start(self, child: Child, now: float) -> None:
        if child.name == BROKER:
            self._broker_starts += 1
        try:
            child.start(
                epoch=self._epoch,
                runtime_dir=runtime_dir(self._site.state_dir),
                record=record_path(self._site.shared_dir),
                now=now,
            )
        except OSError as error:
            _log.error("cannot start %s: %s", child.name, error)
            self._again_or_fail(child, f"it cannot be started: {error}", now)
        else:
            _log.info("started %s as pid %d", child.name, child.pid)
            self._publication.note_processes(self._children)

    def _hear(self, child: Child) -> None:
        report = child.read_report()
        if report is None:
            return
        if report.error is None:
            _log.info("%s is ready", child.name)
            self._publish()
            return
        self._refused(child, report.error)

    def _refused(self, child: Child, error: ChildError) -> None:
        """A child says that it cannot start; it will end. The first time, that is the daemon's own failure."""
        _log.error("%s cannot start: %s", child.name, error.message)
        if not self._publication.is_out:
            self._fail(error.as_exception(), time.monotonic())

    def _ended(self, child: Child, code: int, now: float) -> None:
        last_words = child.read_report()
        child.close_report()
        child.ready = False
        how = exit_in_words(code)
        if code > 0 and last_words is None:
            how = ": ".join(filter(None, (how, last_line(child.log))))
        _log.log(logging.INFO if code == 0 else logging.WARNING, "%s has ended: %s", child.name, how)
        if child.name == CONTROLLER and code == 0:
            self._pilots_are_seen_to = True
        if self._phase is _Phase.CONTROLLER_ENDS and child.name == CONTROLLER and code != 0:
            self._controller_again(now)
        if self._phase is not _Phase.RUNNING:
            return
        if child.name == CONTROLLER and code == 0:
            self._go_down("the controller was asked to", now)
        elif last_words is not None and last_words.error is not None:
            self._refused(child, last_words.error)
            self._again_or_fail(child, last_words.error.message, now)
        else:
            self._again_or_fail(child, how, now)

    def _again_or_fail(self, child: Child, how: str, now: float) -> None:
        if self._phase is not _Phase.RUNNING:
            return
        if not self._publication.is_out:
            reason = f"it was not ready yet: {how}"
        else:
            verdict = child.restarts.exited(now)
            if not isinstance(verdict, GiveUp):
                child.restart_at = verdict.at_s
                return
            reason = f"{verdict.reason}, the last time: {how}"
        self._fail(HpcserveError(f"the daemon's {child.name} does not run: {reason}; see {child.log}"), now)

    def _look_after(self, child: Child, now: float) -> None:
        """Starts a child that is due, and kills one that takes too long."""
        if child.restart_at is not None and now >= child.restart_at:
            child.restart_at = None
            self._start(child, now)
        elif self._phase is _Phase.RUNNING and child.pid is not None and not child.ready and self._late(child, now):
            _log.error("%s is killed: it was not ready within %g s", child.name, self._timing.ready_s)
            child.signal(signal.SIGKILL)

    def _late(self, child: Child, now: float) -> bool:
        return now >= child.started_at + self._timing.ready_s

    # --- the record and the lease ---------------------------------------------------------------

    @property
    def _epoch(self) -> Epoch:
        return broker_epoch(self._lease.epoch, self._broker_starts)

    def _publish(self) -> None:
        """Writes the record, if everybody is ready and it says something new."""
        if self._phase is not _Phase.RUNNING or not all(child.ready for child in self._children.values()):
            return
        try:
            if is_taken(self._site.shared_dir, self._lease.epoch):
                self._lose()
            else:
                self._publication.publish(self._children, self._epoch)
        except HpcserveError as error:
            if self._publication.is_out:
                _log.error("the service record is not looked after: %s", error)
            else:
                self._fail(error, time.monotonic())

    def _renew(self, now: float) -> None:
        self._renew_at = now + self._lease.every_s
        try:
            kept = self._lease.renew()
        except (HpcserveError, OSError) as error:
            _log.error("the lease is not renewed: %s", error)
            return
        if not kept:
            self._lose()
        else:
            self._publish()

    def _lose(self) -> None:
        failure = Conflict(f"the daemon ends: its lease was taken by a daemon on {self._lease.successor()}")
        self._failure, self._exit_code = failure, EXIT_LEASE_LOST
        self._phase, self._phase_ends_at = _Phase.OTHERS_END, time.monotonic()
        self._renew_at = float("inf")
        for child in self._children.values():
            child.restart_at = None

    # --- going down -----------------------------------------------------------------------------

    def _fail(self, error: HpcserveError, now: float) -> None:
        if self._failure is None:
            self._failure, self._exit_code = error, EXIT_FAILED
        self._go_down(str(error), now)

    def _go_down(self, why: str, now: float) -> None:
        if self._phase is not _Phase.RUNNING:
            return
        _log.info("going down: %s", why)
        self._phase, self._phase_ends_at = _Phase.CONTROLLER_ENDS, now + self._timing.controller_s
        for child in self._children.values():
            child.restart_at = None
        self._controller_again(now)

    def _controller_again(self, now: float) -> None:
        """A controller that crashed before it could end its pilots is started to do just that."""
        controller = self._children[CONTROLLER]
        wanted = controller.was_ready and self._asked_to_stop()
        if controller.pid is None and controller.restart_at is None and wanted:
            verdict = controller.restarts.exited(now)
            controller.restart_at = None if isinstance(verdict, GiveUp) else verdict.at_s

    def _advance(self, now: float) -> None:
        """Goes on with going down."""
        if self._phase is _Phase.CONTROLLER_ENDS:
            self._end_controller(now)
        if self._phase is _Phase.OTHERS_END:
            left = [child for child in self._children.values() if child.pid is not None]
            if not left:
                self._phase = _Phase.OVER
            elif now >= self._phase_ends_at:
                for child in left:
                    child.signal(signal.SIGKILL)
                self._phase_ends_at = float("inf")

    def _end_controller(self, now: float) -> None:
        controller = self._children[CONTROLLER]
        if controller.restart_at is not None and now < self._phase_ends_at:
            return
        controller.restart_at = None
        if controller.pid is not None and now < self._phase_ends_at:
            # Once ready it has a handler; before, the signal would end it and leave an earlier run's pilots behind.
            if not controller.told_to_end and (controller.ready or self._failure is not None):
                controller.told_to_end = True
                controller.signal(signal.SIGTERM)
            return
        if controller.pid is not None:
            _log.error("the controller is killed: it took longer than %g s", self._timing.controller_s)
            controller.signal(signal.SIGKILL)
            if controller.was_ready and self._asked_to_stop() and not self._is_second_end:
                _log.info("another controller is to end the pilots")
                self._is_second_end, self._phase_ends_at = True, now + self._timing.controller_s
                return  # it is started when this one is reaped
        self._phase, self._phase_ends_at = _Phase.OTHERS_END, now + self._timing.others_s
        for child in self._children.values():
            if child is not controller:
                child.signal(signal.SIGTERM)

    def _finish(self) -> None:
        """Tells the world that nothing runs any more."""
        if self._failure is not None:
            _log.error("%s", self._failure)
            is_told = self._publication.is_out or self._exit_code == EXIT_LEASE_LOST
            self._starter.complain(self._failure if is_told else _in_full(self._failure, self._site))
        if self._exit_code == EXIT_LEASE_LOST:
            return  # the record and the sockets may be the successor's
        if not self._pilots_are_seen_to:
            self._leave_word()
        for tidy in (self._publication.withdraw, self._remove_sockets, self._lease.release):
            try:
                tidy()
            except (HpcserveError, OSError) as error:
                _log.error("not all is tidy: %s", error)
        _log.info("down")

    def _leave_word(self) -> None:
        """No controller has said what became of the pilots, of which there are none if there never was one."""
        controller = self._children[CONTROLLER]
        if not controller.was_ready or (farewell.read(self._site.state_dir) or controller.unbidden) == "keep":
            return
        _log.error("pilots may go on: no controller has seen to their end")
        leftovers.write_unconfirmed(self._site.shared_dir)

    def _remove_sockets(self) -> None:
        if self._sockets is not None:
            shutil.rmtree(self._sockets)


def _in_full(failure: HpcserveError, site: Site) -> HpcserveError:
    from hpcserve.daemon.ports import (
        counted,
    )  # it brings ZeroMQ, which a supervisor of a daemon that runs has no use for

    return counted(failure, site)
