"""The controller: carries out what :mod:`hpcserve.core.fleet` decides, with the broker, the agents and the scheduler.

What the scheduler says comes in by :mod:`hpcserve.daemon.controller.fates`, what agents say by
:mod:`hpcserve.daemon.controller.agents`; here one loop steers. It is level-triggered throughout: the broker is told
the whole routing table and an agent all that it is to run, so that a message lost, or a process that was restarted,
changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from pathlib import Path

from hpcserve.cluster.evidence import evidence
from hpcserve.cluster.plugins import open_scheduler
from hpcserve.config import Site
from hpcserve.core.fleetbook import Action, FailDeployment, ForgetReplica, ReplicaLost
from hpcserve.core.fleetview import CancelPilot, SubmitPilot
from hpcserve.core.losses import Loss
from hpcserve.core.shapes import Shape
from hpcserve.daemon import leftovers
from hpcserve.daemon.controller.absent import Absent
from hpcserve.daemon.controller.agents import Agents
from hpcserve.daemon.controller.books import fleet_of
from hpcserve.daemon.controller.fates import Fates
from hpcserve.daemon.controller.fence import Fence, Fenced
from hpcserve.daemon.controller.guard import Asking, Guard
from hpcserve.daemon.controller.hub import HubLine
from hpcserve.daemon.controller.logs import prune_logs
from hpcserve.daemon.controller.losses import Losses
from hpcserve.daemon.controller.measuring import Measuring, scale_of
from hpcserve.daemon.controller.ownership import Ownership
from hpcserve.daemon.controller.parting import Parting
from hpcserve.daemon.controller.pilots import AT_ONCE, Pilots
from hpcserve.daemon.controller.plan import Servable, servable_of
from hpcserve.daemon.controller.results import Results
from hpcserve.daemon.controller.rollouts import Rollouts
from hpcserve.daemon.controller.scheduling import Ears, bucket_of, scheduling_of
from hpcserve.daemon.controller.shaping import Shaping
from hpcserve.daemon.controller.staged import StagedFiles
from hpcserve.daemon.controller.storage import Storage
from hpcserve.daemon.controller.targets import Targets
from hpcserve.daemon.controller.telling import Telling
from hpcserve.daemon.controller.transferring import transferring_of
from hpcserve.daemon.farewell import Farewell
from hpcserve.daemon.launch import SERVICE_KEY
from hpcserve.errors import ServiceUnavailable
from hpcserve.registry.rows import DeploymentRow
from hpcserve.registry.store import Store
from hpcserve.registry.vault import sweep
from hpcserve.types import DeploymentName, Epoch
from hpcserve.wire import hub

_log = logging.getLogger(__name__)

STORE = "hpcserve.db"
BUSY_S = 0.1
"""While something changes within moments, what is due is looked at so often; site local polls its jobs as often."""
LOOK_S = 1.0
PRUNE_S = 60.0
"""How often old logs are looked for."""


class Controller:
    """All that the controller process knows and does; one event loop owns it.

    Args:
        site: The site.
        runtime_dir: Where the broker's internal socket is.
        record: The path of the service record.
        fence: Says whether the lease is still ours.
        unbidden: What becomes of the pilots when it ends and nobody has said.
    """

    def __init__(
        self, site: Site, *, runtime_dir: Path, record: Path, fence: Fence, unbidden: Farewell = "cancel"
    ) -> None:
        self.site = site
        self.runtime_dir = runtime_dir
        self.fence = fence
        self.storage = Storage()
        self.hub = HubLine(runtime_dir)
        self.fleet = fleet_of(site)
        scheduler = open_scheduler(site)
        bucket = bucket_of(site)
        shaping = Shaping(site, scheduler, self.fleet, bucket)
        self.pilots = Pilots(site, Fenced(scheduler, fence), self.storage, record, shaping.shaped)
        self.guard = Guard(site)
        self.transferring = transferring_of(site, self.guard, self.storage, self.hub.token, self._delivered)
        self.staged = StagedFiles(site, self.storage, self.transferring.holds)
        self.results = Results(site, self.guard, self.staged, self.transferring)
        self.losses = Losses(site.shared_dir / "logs")
        self._targets = Targets(self.fleet)
        self._rollouts = Rollouts(self.storage, self.fleet)
        self.served: dict[DeploymentName, DeploymentRow] = {}
        self.servables: dict[tuple[DeploymentName, str], Servable] = {}
        self.ownership = Ownership(self.storage, self.fleet, self.served, self.servables)
        self._telling = Telling(
            site,
            self.hub,
            self.pilots,
            self.fleet,
            served=self.served,
            servables=self.servables,
            access=self.ownership.deployment,
            published=self.ownership.names,
        )
        self.agents = Agents(
            storage=self.storage,
            line=self.hub,
            pilots=self.pilots,
            fleet=self.fleet,
            served=self.served,
            servables=self.servables,
            telling=self._telling,
            act=self._act,
        )
        fates = Fates(self.pilots, self.fleet, self.agents, self._act)
        ears = Ears(seen=fates.seen, refused=fates.refused, dropped=fates.dropped, waits=fates.waits)
        self.scheduling = scheduling_of(
            site, self.pilots, ears, bucket=bucket, poll_s=self._poll_s, ends_s=self._ends_s
        )
        self.parting = Parting(
            site,
            fleet=self.fleet,
            pilots=self.pilots,
            scheduling=self.scheduling,
            fence=fence,
            unbidden=unbidden,
            change=self.change,
        )
        self.absent = Absent(self.fleet, self.scheduling.look, self.change)
        self.epoch = Epoch(0)
        self.stop = asyncio.Event()
        self._changed = asyncio.Event()
        self.measuring = Measuring(self.hub, self.fleet, self.change, is_blind=self._is_waiting)
        self._began = time.monotonic()
        self._prune_at = 0.0

    # --- life -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the store, and takes up what an earlier controller left.

        Raises:
            HpcserveError: The store cannot be opened.
        """
        await self.storage.open(self.site.state_dir / STORE)
        await asyncio.to_thread(sweep, self.site.shared_dir)
        leftovers.write(self.site.shared_dir, ())
        await self.staged.open(self.site.state_dir / SERVICE_KEY)
        await self.transferring.open()
        await self.ownership.recall()
        for row in await self.storage.do(Store.deployments):
            servable = await self.storage.do(Store.servable, row.servable, row.version)
            self.serve(row, servable_of(servable))
        self.fleet.recall()
        self.servables |= await self._rollouts.recall()
        now = time.monotonic()
        for pilot in await self.pilots.recover():
            self.fleet.adopt_pilot(pilot, self.fleet.policy.slots, now)
            submitted = self.pilots.jobs[pilot].row
            if submitted.nodes:
                self.fleet.shaped(pilot, Shape(submitted.nodes, submitted.walltime_s))
            self.agents.awaited.add(pilot)
        self.parting.recall()
        self._began = time.monotonic()  # before this nobody could come

    async def _delivered(self, owner: str, name: str) -> None:
        await self.staged.delivered(owner, (f"{self.site.staging_dir}/{owner}/{name}",))

    async def run(self) -> None:
        """Works until :attr:`stop` is set. Unless they are kept, every pilot has ended then, or had its time to."""
        doing = self._steer(), self.scheduling.run(), self.measuring.run(), self.staged.run(), self.transferring.run()
        works = [asyncio.create_task(each) for each in doing]
        stopping = asyncio.create_task(self.stop.wait())
        await asyncio.wait({*works, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for work in works:
            if work.done():
                work.result()
        works[1].cancel()
        await asyncio.gather(works[1], return_exceptions=True)
        await self.parting.part()
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    async def close(self) -> None:
        """Lets go of everything."""
        self.hub.close()
        self.guard.close()
        await self.pilots.close()
        await self.storage.close()

    # --- what is wanted -------------------------------------------------------------------------------

    def serve(self, row: DeploymentRow, servable: Servable) -> None:
        """A deployment is wanted from now on."""
        self.served[row.name] = row
        self.servables[row.name, row.version] = servable
        self.fleet.want(row.name, servable.version, row.replicas, scale_of(row))
        self.change()

    def unserve(self, name: DeploymentName) -> None:
        """A deployment is not wanted any more."""
        self.served.pop(name, None)
        self.fleet.unwant(name)
        self.change()

    def hidden_servables(self, asking: Asking) -> frozenset[str]:
        """The names of which a caller may not know."""
        names = self.ownership.names.items()
        return frozenset(name for name, servable in names if not self.guard.sees(asking, servable))

    def sees(self, asking: Asking, name: DeploymentName) -> bool:
        """Whether a caller may know of a deployment."""
        return self.guard.sees(asking, self.ownership.deployment(name))

    def change(self) -> None:
        """Something happened: what follows from it is looked at soon."""
        self._changed.set()

    # --- steering -------------------------------------------------------------------------------------

    async def _steer(self) -> None:
        while True:
            self._changed.clear()  # what changes from here on, during any of the steps, is looked at after them
            if self.fleet.has_unjudged:
                await self._carry_out(self.fleet.judge(await self._answered()))
            if not self.stop.is_set() and not self._is_waiting():
                await self._carry_out(self.fleet.step(time.monotonic()))
            self._targets.note()
            self._tell_agents()
            self._tell_admission()
            self.tell_broker()
            self.tidy()
            await self._rollouts.note()
            await self.ownership.note()
            await self._prune_logs()
            if self.fleet.is_drained:
                self.stop.set()
            try:
                # Not wait_for(): before Python 3.12 it swallows a cancellation that comes together with a change.
                async with asyncio.timeout(self._look_s() if self.pilots.jobs or self.served else None):
                    await self._changed.wait()
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
        reported = {each.replica for report in self.agents.reports.values() for each in report.replicas}
        live = {*self.pilots.jobs, *self.fleet.replicas, *reported}
        logs = self.site.shared_dir / "logs"
        await asyncio.to_thread(prune_logs, logs, live=live, keep=self.site.pilots.keep_ended)
        await self.ownership.prune(logs, live.__contains__)

    def _is_waiting(self) -> bool:
        """Whether agents that this controller inherited have still to say what they run, and have time to."""
        return bool(self.agents.awaited) and time.monotonic() - self._began < self.site.recovery.recovery_grace_s

    def _look_s(self) -> float:
        settled = all(replica.state == "ready" for replica in self.fleet.replicas.values())
        # One that is queued may be so for days, and its agent's first report is an event.
        beginning = ("queued", "running") if self.site.scheduler.kind in AT_ONCE else ("running",)
        awaited = any(not pilot.reported and pilot.phase in beginning for pilot in self.fleet.pilots.values())
        return LOOK_S if settled and not awaited else BUSY_S

    def _poll_s(self) -> float:
        poll_s = self.site.scheduler.poll_s
        if self.site.scheduler.kind != "local":
            return poll_s
        return min(BUSY_S if self.stop.is_set() else self._look_s(), poll_s)

    def _ends_s(self) -> Iterable[float]:
        return (pilot.ends_s for pilot in self.fleet.pilots.values() if pilot.ends_s is not None)

    async def _act(self, actions: Iterable[Action], shown: str | None = None) -> None:
        """Carries out what follows from an event, and looks soon at what else does.

        Args:
            actions: What follows.
            shown: The lines of a pilot's output that show why; None: what it printed may show that.
        """
        await self._carry_out(actions, shown)
        self.change()

    async def _carry_out(self, actions: Iterable[Action], shown: str | None = None) -> None:
        for action in actions:
            if isinstance(action, SubmitPilot):
                self.scheduling.submit(action.pilot)
            elif isinstance(action, CancelPilot):
                self.scheduling.cancel(action.pilot)
            elif isinstance(action, ReplicaLost):
                self._note(action.loss, shown)
            elif isinstance(action, ForgetReplica):
                self.agents.forget(action.replica)
            elif isinstance(action, FailDeployment):
                _log.error("deployment %s failed: %s", action.deployment, action.reason)

    def _note(self, loss: Loss, shown: str | None) -> None:
        job = self.pilots.jobs.get(loss.pilot)
        if shown is None and not loss.told and job is not None:
            shown = evidence(self.pilots.output(loss.pilot, job.row.restarts))[1]
        self.losses.note(loss, shown or "")

    # --- telling --------------------------------------------------------------------------------------

    def _tell_agents(self) -> None:
        self._telling.tell_agents(self.agents.reports)

    def _tell_admission(self) -> None:
        self._telling.tell_admission()

    @property
    def groups_count(self) -> bool:
        """Whether it is asked for who is in which group of Globus."""
        return self._telling.groups_count

    def tell_broker(self) -> None:
        """The routing table, as soon as it can be trusted: a replica that is not in it is dead to the broker."""
        if not self._is_waiting():
            self._telling.tell_broker()

    async def wait_for_routes(self) -> None:
        """Returns once the broker was told what is wanted now: what it is told after that, it hears later."""
        await self._telling.routed.wait()
        self._tell_admission()  # before: nobody whose groups matter from now on is told that an endpoint is not there
        self.tell_broker()

    def broker_is_up(self, message: hub.BrokerUp) -> None:
        """A new broker, or a new connection to it: it is told everything."""
        self.epoch = message.epoch
        self.agents.admit_all()
        self._telling.tell_all_again()
        self.change()

    # --- listening ------------------------------------------------------------------------------------

    async def enrol(self, ask: hub.EnrolAsk) -> None:
        """An agent wants in."""
        await self.agents.enrol(ask)

    def refuse(self, ask: hub.EnrolAsk) -> None:
        """An agent wants in while too many others do."""
        self.agents.refuse(ask)

    async def agent_says(self, said: hub.AgentSays) -> None:
        """An agent's report."""
        await self.agents.hear(said)

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

    def lacking(self, message: hub.Lacking) -> None:
        """Requests wait for a deployment that has no replica."""
        self.measuring.soon()

    def replica_idle(self, message: hub.ReplicaIdle) -> None:
        """A retiring replica holds nothing any more."""
        self.fleet.idle(message.replica)
        self.change()
