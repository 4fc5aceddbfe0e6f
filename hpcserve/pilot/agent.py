"""The agent of a pilot job: starts replicas, waits for them, reports, and ends with all of them.

One thread around one poll. No request passes through it. It decides when this pilot ends (its walltime,
a signal, orders, a daemon that stays away); which replicas run is the controller's to say.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hpcserve.cluster.plugins import open_launcher
from hpcserve.cluster.signals import Signals
from hpcserve.pilot.children import Surroundings
from hpcserve.pilot.command import replica_command
from hpcserve.pilot.link import Ears, Link
from hpcserve.pilot.roster import Roster
from hpcserve.pilot.watch import Watch
from hpcserve.types import PilotId
from hpcserve.wire.launch import Enrolment
from hpcserve.wire.messages import Orders, Report

_log = logging.getLogger(__name__)

OK = 0
FAILED = 1
_MARGIN_S = 2.0
_FAREWELL_S = 1.0
_RESEND_S = 0.1
_LONGEST_WAIT_S = 60.0


class Agent:
    """One run of a pilot job.

    Args:
        record: The path of the service record.
        enrolment: What the controller laid down for this pilot.
        enrolled: Called when the daemon knows us, and the secret serves nobody else any more.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        record: Path,
        enrolment: Enrolment,
        enrolled: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enrolment = enrolment
        self._clock = clock
        self._ends_s = clock() + enrolment.walltime_s
        self._margin_s = min(enrolment.stop_grace_s + _MARGIN_S, enrolment.walltime_s / 2)
        self._host = socket.gethostname()
        self._dirty = False
        self._leaving = ""
        self._exit_code = OK
        self._watch = Watch()
        self._signals = Signals()
        self._watch.add(self._signals.fileno(), self._signals.drain)
        self._roster = Roster(self._surroundings(record))
        self._link = Link(
            record=record,
            enrolment=enrolment,
            enrolled=enrolled,
            ears=Ears(up=self._mark_dirty, asked=self._mark_dirty, orders=self._obey),
            watch=self._watch,
            clock=clock,
            dice=random.Random(),
        )

    def run(self) -> int:
        """Serves until this pilot ends; then no process of its replicas is left.

        Returns:
            The exit code of the process: 0 for an orderly end.
        """
        try:
            while not (self._leaving and self._roster.empty):
                self._turn()
        finally:
            self._end_everything()
            self._send()
            self._link.close(_FAREWELL_S)
            self._watch.remove(self._signals.fileno())
            self._signals.close()
        _log.info("ended: %s", self._leaving)
        return self._exit_code

    def _turn(self) -> None:
        now = self._clock()
        self._look(now)
        self._link.tick(now)
        self._roster.tick(now)
        self._send()
        if not (self._leaving and self._roster.empty):
            self._watch.turn(self._wait_s(now))

    def _look(self, now: float) -> None:
        """Whether this pilot has to end."""
        orphan_s = self._enrolment.orphan_s
        if self._signals.stop:
            self._leave(f"the agent got {self._signals.stop}", now)
        elif self._link.refused:
            self._leave(f"the daemon refuses this pilot: {self._link.refused}", now, FAILED)
        elif now >= self._ends_s - self._margin_s:
            self._leave(f"the pilot's walltime of {self._enrolment.walltime_s:g} s is used up", now)
        elif self._link.down_for_s(now) >= orphan_s:
            self._leave(f"the daemon has been away for {orphan_s:g} s", now, FAILED)

    def _leave(self, cause: str, now: float, exit_code: int = OK) -> None:
        if self._leaving:
            return
        _log.info("ending: %s", cause)
        self._leaving = cause
        self._exit_code = exit_code
        self._roster.stop_all(cause, now)
        self._mark_dirty()

    def _obey(self, orders: Orders) -> None:
        ours = (self._enrolment.pilot, self._enrolment.incarnation)
        if (orders.pilot, orders.incarnation) != ours:
            _log.warning("orders for %s %s ignored: this is %s %s", orders.pilot, orders.incarnation, *ours)
            return
        now = self._clock()
        if orders.stop:
            self._leave("the controller ended this pilot", now)
        if not self._leaving:
            self._roster.obey(orders, now)

    def _send(self) -> None:
        if self._dirty and self._link.send(self._report()):
            self._dirty = False

    def _report(self) -> Report:
        return Report(
            pilot=PilotId(self._enrolment.pilot),
            incarnation=self._enrolment.incarnation,
            host=self._host,
            pid=os.getpid(),
            slots=self._enrolment.slots,
            walltime_left_s=max(0.0, self._ends_s - self._clock()),
            replicas=self._roster.statuses,
            leaving=self._leaving,
        )

    def _wait_s(self, now: float) -> float:
        dues = [now + _LONGEST_WAIT_S, self._link.due_s, self._roster.due_s]
        if not self._leaving:
            dues.append(self._ends_s - self._margin_s)
            dues.append(now + self._enrolment.orphan_s - self._link.down_for_s(now))
        if self._dirty and self._link.up:
            dues.append(now + _RESEND_S)
        return min(due for due in dues if due is not None) - now

    def _end_everything(self) -> None:
        """Kills what is left, which is nothing unless an error ended the loop."""
        self._roster.kill_all("the agent failed")
        while not self._roster.empty:
            self._roster.tick(self._clock())
            self._watch.turn(_RESEND_S)

    def _mark_dirty(self) -> None:
        self._dirty = True

    def _surroundings(self, record: Path) -> Surroundings:
        launcher = open_launcher(self._enrolment.launcher)
        return Surroundings(
            watch=self._watch,
            command=partial(replica_command, launcher=launcher, inherited=dict(os.environ)),
            record=record,
            log_dir=Path(self._enrolment.log_dir),
            log_bytes=self._enrolment.log_bytes,
            stop_grace_s=self._enrolment.stop_grace_s,
            clock=self._clock,
            changed=self._mark_dirty,
        )
