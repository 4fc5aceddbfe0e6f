"""The agent of a pilot job: starts replicas, waits for them, reports, and ends with all of them.

One thread around one poll. No request passes through it. It decides when this pilot ends (its walltime,
a signal, orders, a daemon that stays away, nodes that are all lost); which replicas run is the controller's to say.

Its walltime it counts itself, by a clock that runs evenly: the clocks of nodes and of the scheduler may be minutes
apart. What its job used up before its first process began it cannot know; the scheduler's warning corrects that.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hpcserve.cluster.plugins import open_launcher
from hpcserve.cluster.signals import Signals
from hpcserve.errors import ConfigError, VersionMismatch
from hpcserve.pilot import mps
from hpcserve.pilot.children import Surroundings
from hpcserve.pilot.contained import any_command
from hpcserve.pilot.inherited import inherited
from hpcserve.pilot.link import Ears, Link
from hpcserve.pilot.memory import MemoryWatch, counter_file
from hpcserve.pilot.outcome import Stop
from hpcserve.pilot.roster import Roster
from hpcserve.pilot.stages import CLEAN_S, Stages
from hpcserve.pilot.watch import Watch
from hpcserve.types import LossKind, PilotId
from hpcserve.wire import exits
from hpcserve.wire.agents import Orders, Report
from hpcserve.wire.launch import Enrolment

_log = logging.getLogger(__name__)

_MARGIN_S = 2.0
_FAREWELL_S = 1.0
_RESEND_S = 0.1
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFacts:
    """What the pilot's job is to its agent.

    Attributes:
        began_s: When it began, on the agent's clock.
        nodes: The names of its nodes, the agent's own first.
        warn_s: When the warning comes, SIGUSR1 or a timer's, the job's end is at most so far away; 0: none comes.
    """

    began_s: float
    nodes: tuple[str, ...]
    warn_s: float = 0.0


class Agent:
    """One run of a pilot job.

    Args:
        record: The path of the service record.
        enrolment: What the controller laid down for this incarnation.
        job: The job that it runs in.
        signals: The process's, since before the enrolment was there.
        enrolled: Called when the daemon knows us, and the secret serves nobody else any more.
        clock: Monotonic seconds.

    Raises:
        ConfigError: There is no such launcher, or it reaches one node alone and the job has several.
    """

    def __init__(
        self,
        record: Path,
        enrolment: Enrolment,
        *,
        job: JobFacts,
        signals: Signals,
        enrolled: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enrolment = enrolment
        self._job = job
        self._clock = clock
        self._ends_s = job.began_s + enrolment.walltime_s
        self._warned = False
        self._margin_s = min(enrolment.stop_grace_s + _MARGIN_S, enrolment.walltime_s / 2)
        self._host = socket.gethostname()
        self._dirty = False
        self._agent_s: float | None = None
        self._leaving = ""
        self._exit_code = exits.OK
        self._watch = Watch()
        self._signals = signals
        self._watch.add(self._signals.fileno(), self._signals.drain)
        self._mps: mps.Mps | None = None
        around = self._surroundings(record)
        self._images = around.images
        self._roster = Roster(around, job.nodes)
        self._link = Link(
            record=record,
            enrolment=enrolment,
            enrolled=enrolled,
            ears=Ears(up=self._come_up, asked=self._mark_dirty, orders=self._obey),
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
            if self._mps is not None:
                self._mps.start(lambda: bool(self._signals.stop))
            while not (self._leaving and self._roster.empty):
                self._turn()
            self._clean()
        finally:
            self._end_everything()
            if self._mps is not None:
                self._mps.stop()
            self._send()
            self._link.close(_FAREWELL_S)
            self._watch.remove(self._signals.fileno())
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
        if self._signals.warned and not self._warned:
            self._heed_warning(now)
        refused = self._link.refused
        if self._signals.stop:
            self._leave(self._told_to_stop(now), now)
        elif refused is not None:
            exit_code = exits.VERSION_MISMATCH if isinstance(refused, VersionMismatch) else exits.REFUSED
            kind: LossKind = "version mismatch" if exit_code == exits.VERSION_MISMATCH else ""
            self._leave(Stop(f"the daemon refuses this pilot: {refused.message}", kind), now, exit_code)
        elif now >= self._last_s - self._margin_s:
            self._leave(Stop(f"the pilot's walltime of {self._enrolment.walltime_s:g} s is used up", "walltime"), now)
        elif self._link.down_for_s(now) >= orphan_s:
            self._leave(Stop(f"the daemon has been away for {orphan_s:g} s", "unreachable"), now, exits.ORPHANED)
        elif not self._roster.usable_nodes:
            self._leave(Stop("every node of the pilot is lost", "node failed"), now, exits.FAILED)

    @property
    def _last_s(self) -> float:
        """When this pilot ends, or as much earlier as the ranks of its replicas may take to be killed."""
        return self._ends_s - min(self._roster.kill_s, self._enrolment.walltime_s / 2 - self._margin_s)

    def _heed_warning(self, now: float) -> None:
        """The end is at most that far away, whatever our own clock says."""
        self._warned = True
        left_s = self._ends_s - now
        self._ends_s = min(self._ends_s, now + self._job.warn_s)
        _log.info("warned of the job's end: %g s left, %g s by the agent's clock", self._ends_s - now, left_s)
        self._mark_dirty()

    def _told_to_stop(self, now: float) -> Stop:
        """A scheduler sends one signal for a walltime that is over, a preemption and a cancellation."""
        name = self._signals.stop
        if self._warned or now >= self._last_s - self._margin_s - self._job.warn_s:
            return Stop(f"the agent got {name} near the end of the pilot's walltime", "walltime")
        return Stop(f"the agent got {name}: the job was ended from outside", "cancelled")

    def _leave(self, why: Stop, now: float, exit_code: int = exits.OK) -> None:
        if self._leaving:
            return
        _log.info("ending: %s", why.cause)
        self._leaving = why.cause
        self._exit_code = exit_code
        self._roster.stop_all(why, now)
        self._mark_dirty()

    def _obey(self, orders: Orders) -> None:
        ours = (self._enrolment.pilot, self._enrolment.incarnation)
        if (orders.pilot, orders.incarnation) != ours:
            _log.warning("orders for %s %s ignored: this is %s %s", orders.pilot, orders.incarnation, *ours)
            return
        now = self._clock()
        if orders.stop:
            self._leave(Stop("the controller ended this pilot"), now)
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
            slots=self._enrolment.slots * len(self._roster.usable_nodes),
            walltime_left_s=max(0.0, self._last_s - self._clock()),
            replicas=self._roster.statuses,
            leaving=self._leaving,
            lost_nodes=self._roster.lost_nodes,
            age_s=self._clock() - self._job.began_s,
            agent_s=self._agent_s or 0.0,
        )

    def _wait_s(self, now: float) -> float:
        dues = [now + _LONGEST_WAIT_S, self._link.due_s, self._roster.due_s]
        if not self._leaving:
            dues.append(self._last_s - self._margin_s)
            dues.append(now + self._enrolment.orphan_s - self._link.down_for_s(now))
        if self._dirty and self._link.up:
            dues.append(now + _RESEND_S)
        return min(due for due in dues if due is not None) - now

    def _end_everything(self) -> None:
        """Kills what is left, which is nothing unless an error ended the loop."""
        self._roster.kill_all(Stop("the agent failed", "crashed"))
        while not self._roster.empty:
            self._roster.tick(self._clock())
            self._watch.turn(_RESEND_S)

    def _clean(self) -> None:
        """Removes the copies of images, as far as there is time; on other nodes unless the job was cancelled.

        In one that was, srun of Slurm 22.05 starts no step any more.
        """
        until_s = self._clock() + CLEAN_S
        self._send()
        self._images.clean(() if self._signals.stop else self._roster.usable_nodes)
        while not self._roster.empty and self._clock() < until_s:
            self._roster.tick(self._clock())
            self._watch.turn(_RESEND_S)

    def _come_up(self) -> None:
        if self._agent_s is None:
            self._agent_s = self._clock() - self._job.began_s
        self._mark_dirty()

    def _mark_dirty(self) -> None:
        self._dirty = True

    def _surroundings(self, record: Path) -> Surroundings:
        launcher = open_launcher(self._enrolment.launcher, self._enrolment.mpi)
        nodes = self._job.nodes
        if len(nodes) > 1 and not launcher.elsewhere:
            raise ConfigError(
                f"pilots.launcher: {self._enrolment.launcher!r} starts replicas on the agent's own node alone, and "
                f"this job has {len(nodes)}; take 'srun' or 'mpiexec', or pilots.nodes = 1"
            )
        rules, incarnation = self._enrolment.containers, self._enrolment.incarnation
        of_replicas = own = inherited(os.environ)
        if self._enrolment.mps:
            self._mps = mps.Mps(launcher, nodes, incarnation)
            rules = mps.seen_in(rules, incarnation)
            of_replicas = {**own, **mps.variables(incarnation)}
        return Surroundings(
            watch=self._watch,
            command=partial(
                any_command,
                launcher=launcher,
                inherited=of_replicas,
                prologue=self._enrolment.prologue,
                bind=self._enrolment.bind,
                rules=rules,
                mpi=self._enrolment.mpi,
                slots=self._enrolment.slots,
                record=record,
                staging=self._enrolment.staging,
            ),
            launcher=launcher,
            images=Stages(
                self._enrolment.containers,
                pilot=incarnation,
                launcher=launcher,
                own=nodes[0],
                watch=self._watch,
                clock=self._clock,
                changed=self._mark_dirty,
                environment=own,
            ),
            memory=MemoryWatch(counter_file()),
            record=record,
            log_dir=Path(self._enrolment.log_dir),
            log_bytes=self._enrolment.log_bytes,
            slots=self._enrolment.slots,
            replicas_per_gpu=self._enrolment.replicas_per_gpu,
            stop_grace_s=self._enrolment.stop_grace_s,
            clock=self._clock,
            changed=self._mark_dirty,
            staging=self._enrolment.staging,
        )
