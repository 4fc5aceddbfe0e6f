"""The controller: carries out what :mod:`hpcserve.core.fleet` decides, with the broker, the agents and the scheduler.

Level-triggered throughout: the broker is told the whole routing table and an agent all that it is to run, so
that a message lost, or a process that was restarted, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from hpcserve.cluster.plugins import open_scheduler
from hpcserve.config import Site
from hpcserve.core import deployments as rules
from hpcserve.core.fleet import Action, FailDeployment, Fleet, ForgetReplica
from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.daemon.controller.failures import NEVER_READY, PILOTS_FAIL, Failures
from hpcserve.daemon.controller.hub import HubLine
from hpcserve.daemon.controller.logs import prune_logs
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.plan import Servable, orders, routes, servable_of
from hpcserve.daemon.controller.rollouts import Rollouts
from hpcserve.daemon.controller.storage import Storage
from hpcserve.errors import (
    AuthenticationError,
    HpcserveError,
    Overloaded,
    ProtocolError,
    ServiceUnavailable,
    StorageFull,
)
from hpcserve.registry.rows import DeploymentRow
from hpcserve.registry.store import Store
from hpcserve.registry.vault import sweep
from hpcserve.types import DeploymentName, Digest, Epoch, PilotId, ReplicaId
from hpcserve.wire import hub
from hpcserve.wire.frames import decoder, encode, error_to_wire
from hpcserve.wire.messages import Orders, Report

_log = logging.getLogger(__name__)

STORE = "hpcserve.db"
RUNNING = ("starting", "ready")
BUSY_S = 0.1  # while something changes, the scheduler is polled so often (site local)
PRUNE_S = 60.0
"""How often old logs are looked for."""


class Controller:
    """All that the controller process knows and does; one event loop owns it."""

    def __init__(self, site: Site, *, runtime_dir: Path, record: Path) -> None:
        self.site = site
        self.runtime_dir = runtime_dir
        self.storage = Storage()
        self.hub = HubLine(runtime_dir)
        self.pilots = Pilots(site, open_scheduler(site), self.storage, record)
        self.fleet = Fleet(
            policy=rules.Policy(
                max_pilots=site.pilots.max_pilots,
                slots=site.pilots.slots,
                idle_s=site.pilots.idle_s,
                drain_s=site.pilots.stop_grace_s,
            ),
            seed=secrets.token_hex(2) + "-",
            restarts=lambda: Failures(NEVER_READY),
            pilot_restarts=Failures(PILOTS_FAIL),
        )
        self._rollouts = Rollouts(self.storage, self.fleet)
        self.served: dict[DeploymentName, DeploymentRow] = {}
        self.servables: dict[tuple[DeploymentName, str], Servable] = {}
        self.reports: dict[PilotId, Report] = {}
        self.epoch = Epoch(0)
        self.stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._began = time.monotonic()
        self._prune_at = 0.0
        self._awaited: set[PilotId] = set()
        self._routed = asyncio.Event()
        self._told: dict[PilotId, Orders] = {}
        self._routes: hub.Routes | None = None
        self._secrets: hub.PilotSecrets | None = None
        self._keys: dict[ReplicaId, bytes] = {}
        self._decode_report = decoder(Report)

    # --- life -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the store, and takes up what an earlier controller left.

        Raises:
            HpcserveError: The store cannot be opened.
        """
        await self.storage.open(self.site.state_dir / STORE)
        await asyncio.to_thread(sweep, self.site.shared_dir)
        for row in await self.storage.do(Store.deployments):
            servable = await self.storage.do(Store.servable, row.servable, row.version)
            self.serve(row, servable_of(servable))
        self.servables |= await self._rollouts.recall()
        now = time.monotonic()
        for pilot in await self.pilots.recover():
            self.fleet.adopt_pilot(pilot, self.site.pilots.slots, now)
            self._awaited.add(pilot)

    async def run(self) -> None:
        """Works until :attr:`stop` is set; then every pilot has ended, or had its time to."""
        steering = asyncio.create_task(self._steer())
        stopping = asyncio.create_task(self.stop.wait())
        await asyncio.wait({steering, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if steering.done():
            steering.result()
        await self._end_pilots()
        steering.cancel()
        await asyncio.gather(steering, return_exceptions=True)

    async def close(self) -> None:
        """Lets go of everything."""
        self.hub.close()
        await self.pilots.close()
        await self.storage.close()

    async def _end_pilots(self) -> None:
        pilots = self.site.pilots
        until = time.monotonic() + 2 * pilots.stop_grace_s + 5.0
        cancelled: set[PilotId] = set()
        while self.pilots.jobs and time.monotonic() < until:
            for pilot, state in (await self.pilots.poll()).items():
                if state.phase == "ended":
                    await self.pilots.end(pilot, "the daemon was taken down")
                elif pilot not in cancelled:
                    await self.pilots.cancel(pilot)
                    cancelled.add(pilot)
            await asyncio.sleep(BUSY_S / 2)

    # --- what is wanted -------------------------------------------------------------------------------

    def serve(self, row: DeploymentRow, servable: Servable) -> None:
        """A deployment is wanted from now on."""
        self.served[row.name] = row
        self.servables[row.name, row.version] = servable
        self.fleet.want(row.name, servable.version, row.replicas)
        self.change()

    def unserve(self, name: DeploymentName) -> None:
        """A deployment is not wanted any more."""
        self.served.pop(name, None)
        self.fleet.unwant(name)
        self.change()

    def change(self) -> None:
        """Something happened: what follows from it is looked at soon."""
        self._changed.set()

    # --- steering -------------------------------------------------------------------------------------

    async def _steer(self) -> None:
        polled_at = 0.0
        while True:
            self._changed.clear()  # what changes from here on, during any of the steps, is looked at after them
            now = time.monotonic()
            if self.pilots.jobs and now - polled_at >= self._poll_s():
                polled_at = now
                await self._poll()
            if self.fleet.has_unjudged:
                await self._carry_out(self.fleet.judge(await self._answered()))
            if not self.stop.is_set() and not self._is_waiting():
                await self._carry_out(self.fleet.step(time.monotonic()))
            self._tell_agents()
            self._tell_admission()
            self.tell_broker()
            self.tidy()
            await self._rollouts.note()
            await self._prune_logs()
            try:
                await asyncio.wait_for(
                    self._changed.wait(), self._poll_s() if self.pilots.jobs or self.served else None
                )
            except TimeoutError:
                continue

    async def _answered(self) -> dict[DeploymentName, int] | None:
        """How many requests each deployment has had answered; None while the broker is away."""
        try:
            stats = await self.hub.stats()
        except ServiceUnavailable:
            return None
        return {load.deployment: load.answered for load in stats.deployments}

    def tidy(self) -> None:
        """Forgets the versions that nothing runs or wants any more."""
        for over in self.servables.keys() - self.fleet.versions():
            del self.servables[over]

    async def _prune_logs(self) -> None:
        """Removes old logs, once every agent has said which replicas live and may have been silent for long."""
        now = time.monotonic()
        if now < self._prune_at or any(pilot.adopted and not pilot.reported for pilot in self.fleet.pilots.values()):
            return
        self._prune_at = now + PRUNE_S
        reported = {each.replica for report in self.reports.values() for each in report.replicas}
        live = {*self.pilots.jobs, *self.fleet.replicas, *reported}
        logs = self.site.shared_dir / "logs"
        await asyncio.to_thread(prune_logs, logs, live=live, keep=self.site.pilots.keep_ended)

    def _is_waiting(self) -> bool:
        """Whether agents that this controller inherited have still to say what they run, and have time to."""
        return bool(self._awaited) and time.monotonic() - self._began < self.site.recovery.recovery_grace_s

    def _poll_s(self) -> float:
        settled = all(replica.state == "ready" for replica in self.fleet.replicas.values())
        busy = not settled or any(not pilot.reported for pilot in self.fleet.pilots.values())
        return min(BUSY_S, self.site.scheduler.poll_s) if busy else self.site.scheduler.poll_s

    async def _poll(self) -> None:
        now = time.monotonic()
        for pilot, state in (await self.pilots.poll()).items():
            if state.phase != "ended":
                self.fleet.job_seen(pilot, state.phase)
                continue
            self._awaited.discard(pilot)
            self.reports.pop(pilot, None)
            self._told.pop(pilot, None)
            key = self.pilots.jobs[pilot].row.public_key
            if key is not None:
                self.hub.tell(hub.RevokeKey(bytes.fromhex(key)))
            output = await self.pilots.end(pilot, state.cause)
            await self._carry_out(self.fleet.job_ended(pilot, state.cause, output, now))

    async def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, rules.SubmitPilot):
                await self._submit(action.pilot)
            elif isinstance(action, rules.CancelPilot):
                await self.pilots.cancel(action.pilot)
            elif isinstance(action, ForgetReplica):
                self._forget(action.replica)
            elif isinstance(action, FailDeployment):
                _log.error("deployment %s failed: %s", action.deployment, action.reason)

    async def _submit(self, pilot: PilotId) -> None:
        try:
            await self.pilots.submit(pilot)
        except HpcserveError as error:
            _log.warning("pilot %s was not submitted: %s", pilot, error)
            lasting = not isinstance(error, StorageFull)
            await self._carry_out(self.fleet.not_submitted(pilot, str(error), time.monotonic(), lasting=lasting))

    def _forget(self, replica: ReplicaId) -> None:
        key = self._keys.pop(replica, None)
        if key is not None:
            self.hub.tell(hub.RevokeKey(key))

    # --- telling --------------------------------------------------------------------------------------

    def _tell_agents(self) -> None:
        for pilot in self.reports:
            job = self.pilots.jobs.get(pilot)
            if job is None:
                continue
            message = orders(
                self.fleet,
                pilot,
                job.row.incarnation,
                self.servables,
                setup_timeout_s=self.site.pilots.setup_timeout_s,
                outbox_bytes=self.site.budgets.outbox_bytes,
                hang_grace_s=self.site.recovery.hang_grace_s,
            )
            if message != self._told.get(pilot):
                self._told[pilot] = message
                self.hub.tell(hub.ToAgentRelay(pilot, encode(message)))

    def _tell_admission(self) -> None:
        """Which pilots may enrol, so that no stranger can keep them out."""
        message = hub.PilotSecrets({pilot: job.row.secret_sha256 for pilot, job in self.pilots.jobs.items()})
        if message != self._secrets:
            self._secrets = message
            self.hub.tell(message)

    def tell_broker(self) -> None:
        """The routing table, as soon as it can be trusted: a replica that is not in it is dead to the broker."""
        if self._is_waiting():
            return
        table = routes(self.fleet, self.served, self.servables)
        if table != self._routes:
            self._routes = table
            self.hub.tell(table)
        self._routed.set()

    async def wait_for_routes(self) -> None:
        """Returns once the broker was told what is wanted now: what it is told after that, it hears later."""
        await self._routed.wait()
        self.tell_broker()

    def broker_is_up(self, message: hub.BrokerUp) -> None:
        """A new broker, or a new connection to it: it is told everything."""
        self.epoch = message.epoch
        for pilot, job in self.pilots.jobs.items():
            if job.row.public_key is not None:
                self.hub.tell(hub.AdmitKey(bytes.fromhex(job.row.public_key), "agent", pilot))
        for replica, key in self._keys.items():
            self.hub.tell(hub.AdmitKey(key, "replica", replica))
        self._routes = None
        self._secrets = None
        self._told.clear()
        self.change()

    # --- listening ------------------------------------------------------------------------------------

    async def enrol(self, ask: hub.EnrolAsk) -> None:
        """An agent wants in."""
        pilot = PilotId(ask.pilot)
        try:
            await self.pilots.enrol(pilot, ask.incarnation, ask.secret, ask.key, ask.host)
        except AuthenticationError as error:
            self.hub.tell(hub.EnrolVerdict(ask.ticket, error_to_wire(error)))
            return
        except HpcserveError as error:
            # The scheduler or the disk, not the agent: it asks again.
            later = ServiceUnavailable(f"pilot {pilot} cannot be enrolled now: {error.message}", retry_after_s=1.0)
            self.hub.tell(hub.EnrolVerdict(ask.ticket, error_to_wire(later)))
            return
        self.hub.tell(hub.AdmitKey(ask.key, "agent", pilot))
        self.hub.tell(hub.EnrolVerdict(ask.ticket))

    def refuse(self, ask: hub.EnrolAsk) -> None:
        """An agent wants in while too many others do."""
        error = Overloaded("too many agents enrol at once", retry_after_s=1.0)
        self.hub.tell(hub.EnrolVerdict(ask.ticket, error_to_wire(error)))

    async def agent_says(self, said: hub.AgentSays) -> None:
        """An agent's report."""
        try:
            report: Report = self._decode_report(said.body)
        except ProtocolError as error:
            _log.warning("pilot %s: %s", said.pilot, error)
            return
        job = self.pilots.jobs.get(report.pilot)
        if job is None or report.incarnation != job.row.incarnation:
            return
        self.servables |= await self._learn(report)
        self._adopt(report)
        self.reports[report.pilot] = report
        now = time.monotonic()
        await self._carry_out(
            self.fleet.reported(
                report.pilot,
                [ReplicaSaid(each.replica, each.state, each.cause, each.traceback) for each in report.replicas],
                ends_s=now + report.walltime_left_s,
                leaving=bool(report.leaving),
                now=now,
            )
        )
        self._told.pop(report.pilot, None)
        self.change()

    async def _learn(self, report: Report) -> dict[tuple[DeploymentName, str], Servable]:
        """The version of each replica that an earlier controller had started and was about to replace."""
        learned = {}
        for status in report.replicas:
            key = (status.deployment, status.version)
            if status.state not in RUNNING or status.deployment not in self.served or key in self.servables:
                continue
            try:
                row = await self.storage.do(Store.version, Digest(status.version))
            except HpcserveError as error:
                _log.warning("replica %s of an older version is given up: %s", status.replica, error)
                continue
            if row is not None:
                learned[key] = servable_of(row)
        return learned

    def _adopt(self, report: Report) -> None:
        """Lets the replicas in, and takes over those that an earlier controller had started."""
        self._awaited.discard(report.pilot)
        for status in report.replicas:
            running = status.state in RUNNING
            known = self.fleet.replicas.get(status.replica)
            if known is not None and known.pilot != report.pilot:
                _log.warning("pilot %s speaks of replica %s of another pilot", report.pilot, status.replica)
                continue
            if status.replica not in self.fleet.replicas and running:
                servable = self.servables.get((status.deployment, status.version))
                if servable is None:
                    continue  # not wanted any more: it is not in the orders, so its agent stops it
                self.fleet.adopt_replica(status.replica, status.deployment, servable.version, report.pilot)
            if running and status.replica not in self._keys:
                self._keys[status.replica] = status.public_key
                self.hub.tell(hub.AdmitKey(status.public_key, "replica", status.replica))

    def replica_hung(self, message: hub.ReplicaHung) -> None:
        """A replica is to be killed."""
        overdue = f"a request was {message.overdue_s:.0f} s past its deadline"
        self.fleet.hung(message.replica, f"replica {message.replica} was killed and replaced: {overdue}")
        self.change()

    def replica_unwanted(self, message: hub.ReplicaUnwanted) -> None:
        """A replica runs what nobody waits for, and is to be killed for that."""
        if self.fleet.unwanted(message.replica):
            _log.info(
                "replica %s is killed: nobody has waited for %.1f s for what it runs", message.replica, message.for_s
            )
        self.change()

    def replica_idle(self, message: hub.ReplicaIdle) -> None:
        """A retiring replica holds nothing any more."""
        self.fleet.idle(message.replica)
        self.change()
