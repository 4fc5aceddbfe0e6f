"""The agents: who is let in, and what their reports say of replicas that this controller or an earlier one began.

What follows from a report is decided in :mod:`hpcserve.core.fleet`; what agents are told stands in
:mod:`hpcserve.daemon.controller.telling`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import Action, ReplicaSaid
from hpcserve.daemon.controller.hub import HubLine
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.plan import Servable, servable_of
from hpcserve.daemon.controller.storage import Storage
from hpcserve.daemon.controller.telling import Telling
from hpcserve.errors import AuthenticationError, HpcserveError, Overloaded, ProtocolError, ServiceUnavailable
from hpcserve.registry.rows import DeploymentRow
from hpcserve.registry.store import Store
from hpcserve.types import DeploymentName, Digest, PilotId, ReplicaId
from hpcserve.wire import hub
from hpcserve.wire.agents import Report
from hpcserve.wire.frames import decoder, error_to_wire

_log = logging.getLogger(__name__)

RUNNING = ("starting", "ready")


class Agents:
    """Hears the agents, and has the broker let them and their replicas in.

    Args:
        storage: Where the versions stand that an earlier controller began.
        line: To the broker.
        pilots: The jobs.
        fleet: The books.
        served: What is wanted.
        servables: The versions of it; those that an agent speaks of are added.
        telling: What the agents are told.
        act: Carries out what follows, and has everything looked at soon.

    Attributes:
        reports: The last of each agent.
        awaited: The pilots whose agents an earlier controller left, and have still to say what they run.
        phases: How long each pilot waited in the queue, and then for its agent, in seconds.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        line: HubLine,
        pilots: Pilots,
        fleet: Fleet,
        served: Mapping[DeploymentName, DeploymentRow],
        servables: dict[tuple[DeploymentName, str], Servable],
        telling: Telling,
        act: Callable[[Iterable[Action]], Awaitable[None]],
    ) -> None:
        self._storage = storage
        self._line = line
        self._pilots = pilots
        self._fleet = fleet
        self._served = served
        self._servables = servables
        self._telling = telling
        self._act = act
        self.reports: dict[PilotId, Report] = {}
        self.awaited: set[PilotId] = set()
        self.phases: dict[PilotId, dict[str, float]] = {}
        self._keys: dict[ReplicaId, bytes] = {}
        self._decode_report = decoder(Report)

    async def enrol(self, ask: hub.EnrolAsk) -> None:
        """An agent wants in."""
        pilot = PilotId(ask.pilot)
        try:
            await self._pilots.enrol(pilot, ask.incarnation, ask.secret, ask.key, ask.host)
        except AuthenticationError as error:
            self._line.tell(hub.EnrolVerdict(ask.ticket, error_to_wire(error)))
            return
        except HpcserveError as error:
            # The scheduler or the disk, not the agent: it asks again.
            later = ServiceUnavailable(f"pilot {pilot} cannot be enrolled now: {error.message}", retry_after_s=1.0)
            self._line.tell(hub.EnrolVerdict(ask.ticket, error_to_wire(later)))
            return
        self._line.tell(hub.AdmitKey(ask.key, "agent", pilot))
        self._line.tell(hub.EnrolVerdict(ask.ticket))

    def refuse(self, ask: hub.EnrolAsk) -> None:
        """An agent wants in while too many others do."""
        error = Overloaded("too many agents enrol at once", retry_after_s=1.0)
        self._line.tell(hub.EnrolVerdict(ask.ticket, error_to_wire(error)))

    def admit_all(self) -> None:
        """Has a new broker let in whom the one before knew."""
        for pilot, job in self._pilots.jobs.items():
            if job.row.public_key is not None:
                self._line.tell(hub.AdmitKey(bytes.fromhex(job.row.public_key), "agent", pilot))
        for replica, key in self._keys.items():
            self._line.tell(hub.AdmitKey(key, "replica", replica))

    def lose(self, pilot: PilotId, key: str | None) -> None:
        """A pilot, or an incarnation of it, has ended: its agent is let in no more. ``key`` is in hex."""
        self.awaited.discard(pilot)
        self.reports.pop(pilot, None)
        self.phases.pop(pilot, None)
        self._telling.tell_again(pilot)
        if key is not None:
            self._line.tell(hub.RevokeKey(bytes.fromhex(key)))

    def forget(self, replica: ReplicaId) -> None:
        """Nothing will be heard of a replica any more: it is let in no more."""
        key = self._keys.pop(replica, None)
        if key is not None:
            self._line.tell(hub.RevokeKey(key))

    async def hear(self, said: hub.AgentSays) -> None:
        """An agent's report."""
        try:
            report: Report = self._decode_report(said.body)
        except ProtocolError as error:
            _log.warning("pilot %s: %s", said.pilot, error)
            return
        if not self._is_present(report):
            return
        self._servables |= await self._learn(report)
        if not self._is_present(report):  # meanwhile its pilot has ended, or was requeued
            return
        self._adopt(report)
        self._measure(report)
        self.reports[report.pilot] = report
        self._telling.tell_again(report.pilot)
        now = time.monotonic()
        await self._act(
            self._fleet.reported(
                report.pilot,
                [
                    ReplicaSaid(
                        each.replica,
                        each.state,
                        each.cause,
                        each.traceback,
                        each.kind,
                        each.host,
                        each.nodes,
                        each.slots,
                        each.lasting,
                        each.exit_code == 0 and each.state == "exited",
                    )
                    for each in report.replicas
                ],
                ends_s=now + report.walltime_left_s,
                leaving=bool(report.leaving),
                now=now,
                slots=report.slots,
                lost_nodes=report.lost_nodes,
                host=report.host,
            )
        )

    def _is_present(self, report: Report) -> bool:
        """Whether a report is of an incarnation that lives, as far as we know."""
        job = self._pilots.jobs.get(report.pilot)
        return job is not None and report.incarnation == job.row.incarnation

    def _measure(self, report: Report) -> None:
        """How long the pilot's start took. Of one that was requeued nobody knows when its last wait began."""
        if report.pilot in self.phases or not report.age_s:
            return
        row = self._pilots.jobs[report.pilot].row
        queue_s = max(0.0, time.time() - row.submitted_s - report.age_s)
        self.phases[report.pilot] = {**({} if row.restarts else {"queue": queue_s}), "agent": report.agent_s}

    async def _learn(self, report: Report) -> dict[tuple[DeploymentName, str], Servable]:
        """The version of each replica that an earlier controller had started and was about to replace."""
        learned = {}
        for status in report.replicas:
            key = (status.deployment, status.version)
            if status.state not in RUNNING or status.deployment not in self._served or key in self._servables:
                continue
            try:
                row = await self._storage.do(Store.version, Digest(status.version))
            except HpcserveError as error:
                _log.warning("replica %s of an older version is given up: %s", status.replica, error)
                continue
            if row is not None:
                learned[key] = servable_of(row)
        return learned

    def _adopt(self, report: Report) -> None:
        """Lets the replicas in, and takes over those that an earlier controller had started."""
        self.awaited.discard(report.pilot)
        for status in report.replicas:
            running = status.state in RUNNING
            known = self._fleet.replicas.get(status.replica)
            if known is not None and known.pilot != report.pilot:
                _log.warning("pilot %s speaks of replica %s of another pilot", report.pilot, status.replica)
                continue
            if status.replica not in self._fleet.replicas and running:
                servable = self._servables.get((status.deployment, status.version))
                if servable is None or self._fleet.has_named(status.replica):
                    continue  # not wanted any more: it is not in the orders, so its agent stops it
                self._fleet.adopt_replica(status.replica, status.deployment, servable.version, report.pilot)
            if running and status.public_key and status.replica not in self._keys:  # one that waits has none yet
                self._keys[status.replica] = status.public_key
                self._line.tell(hub.AdmitKey(status.public_key, "replica", status.replica))
