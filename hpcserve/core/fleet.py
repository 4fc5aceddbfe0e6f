"""The controller's books: what was wanted, what agents and the scheduler said, what was therefore ordered.

Events go in with the time, actions come out for the controller to carry out. Which replicas and pilots there
should be is decided in :mod:`hpcserve.core.deployments`; here stands what that needs to know, and what a
failure means:

* a replica that ends before it is ready counts against its deployment, which waits before the next one is
  started, and fails when its replicas end so again and again;
* one that ends after it was ready makes its deployment wait. A caller's request may have killed it, so it counts only
  while the deployment's replicas answer nothing: when they end so again and again the deployment fails
  (:meth:`Fleet.judge`). One that was killed because a request hung, or because nobody waited any more for what it
  ran, like one that was lost with its pilot, counts against nobody;
* a pilot that ends before its agent reported counts against all pilots; when they are given up, every deployment
  that has no replica left fails, since none can be started.

A deployment that failed is tried again when it is wanted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hpcserve.core import deployments as rules
from hpcserve.core.deployments import (
    CancelPilot,
    PilotPhase,
    Policy,
    RetireReplica,
    StartReplica,
    StopReplica,
    SubmitPilot,
    reconcile,
)
from hpcserve.core.fleetbook import FleetPilot, FleetReplica, PilotOrders, ReplicaSaid
from hpcserve.core.rollout import FleetDeployment, Restarts, Version
from hpcserve.types import DeploymentName, PilotId, ReplicaId

ENDED_STATES = ("failed", "exited")
"""The states of a report that say that a replica's process is gone."""
NO_PILOT = "no pilot job can be submitted"


@dataclass(frozen=True)
class ForgetReplica:
    """Nothing will be heard of this replica any more."""

    replica: ReplicaId


@dataclass(frozen=True)
class FailDeployment:
    """A deployment's replicas cannot be started."""

    deployment: DeploymentName
    reason: str
    traceback: str = ""


Action = SubmitPilot | CancelPilot | StartReplica | RetireReplica | StopReplica | ForgetReplica | FailDeployment


@dataclass(kw_only=True)
class Fleet:
    """All deployments, pilots and replicas of one controller.

    Attributes:
        policy: The site's limits.
        seed: Makes ids unlike those of other controllers of the same service.
        restarts: Makes the back-off of one deployment.
        pilot_restarts: The back-off of pilots that end at once.
    """

    policy: Policy
    seed: str
    restarts: Callable[[], Restarts]
    pilot_restarts: Restarts
    deployments: dict[DeploymentName, FleetDeployment] = field(default_factory=dict)
    pilots: dict[PilotId, FleetPilot] = field(default_factory=dict)
    replicas: dict[ReplicaId, FleetReplica] = field(default_factory=dict)
    submit_not_before_s: float = 0.0
    next_number: int = 1

    def want(self, name: DeploymentName, version: Version, replicas: int) -> None:
        """A deployment is to be served, from now on with this version and this number of replicas."""
        before = self.deployments.get(name)
        self.deployments[name] = FleetDeployment(
            name=name,
            version=version,
            replicas=replicas,
            restarts=self.restarts(),
            served=before.served if before is not None else None,
        )
        self.submit_not_before_s = 0.0

    def remember(self, name: DeploymentName, served: Version, failure: str) -> None:
        """What an earlier controller saw of a wanted deployment.

        Args:
            name: The deployment.
            served: The version that served last.
            failure: Why the wanted version cannot be started; empty if it may be tried.
        """
        known = self.deployments[name]
        known.served = served
        if failure and served != known.version:
            known.fail(failure, "", pilots_ended=False)

    def unwant(self, name: DeploymentName) -> None:
        """A deployment is not to be served any more, and none of its replicas counts, should it be wanted again."""
        self.deployments.pop(name, None)
        for replica in self.replicas.values():
            if replica.deployment == name and replica.state == "ready":
                replica.state = "retiring"

    def adopt_pilot(self, pilot: PilotId, slots: int, now: float) -> None:
        """A pilot that an earlier controller submitted. Whether it still runs, the scheduler will say."""
        self.pilots[pilot] = FleetPilot(pilot=pilot, slots=slots, idle_since_s=now, phase="unknown", adopted=True)

    def adopt_replica(self, replica: ReplicaId, deployment: DeploymentName, version: Version, pilot: PilotId) -> None:
        """A replica that an earlier controller ordered.

        It counts as seen: one that the agent does not report has ended and was forgotten there, or was never begun.
        Either way it is replaced; an agent begins no replica twice.
        """
        self.replicas[replica] = FleetReplica(
            replica=replica, deployment=deployment, version=version, pilot=pilot, seen=True
        )

    def step(self, now: float) -> tuple[Action, ...]:
        """What is to be done now. It counts as done: asked again at once, the answer is empty."""
        self._note_served()
        for pilot in {replica.pilot for replica in self._alive()} & self.pilots.keys():
            self.pilots[pilot].idle_since_s = now
        changes = reconcile(self._view(), now)
        for change in changes:
            self._apply(change, now)
        return changes

    def orders(self, pilot: PilotId) -> PilotOrders:
        """All that the agent of ``pilot`` is to be told at this moment."""
        here = [replica for replica in self._alive() if replica.pilot == pilot]
        known = self.pilots.get(pilot)
        said = known.said if known is not None else ()
        alive = {replica.replica for replica in here}
        return PilotOrders(
            run=tuple(replica.replica for replica in here if replica.state != "stopping"),
            kill=tuple(replica.replica for replica in here if replica.kill),
            forget=tuple(
                replica.replica for replica in said if replica.state in ENDED_STATES and replica.replica not in alive
            ),
            stop=known is None or known.phase == "leaving",
        )

    def serving(self, name: DeploymentName) -> Version:
        """The version of a wanted deployment whose methods callers see."""
        return self.deployments[name].serving(self._ready().get(name, ()))

    def versions(self) -> set[tuple[DeploymentName, str]]:
        """Each version of a deployment that is wanted, or of which a replica may run."""
        wanted = {
            (each.name, version.digest)
            for each in self.deployments.values()
            for version in (each.version, each.fallback, each.served)
            if version is not None
        }
        return wanted | {(each.deployment, each.version.digest) for each in self.replicas.values()}

    def resting(self) -> set[ReplicaId]:
        """The replicas that get no new work: they are to end or be killed, or have other methods than callers see."""
        seen = self._seen()
        return {
            each.replica
            for each in self.replicas.values()
            if each.kill
            or each.state not in ("starting", "ready")
            or each.version.signature != seen.get(each.deployment, each.version.signature)
        }

    def giving_back(self) -> set[ReplicaId]:
        """The replicas that are to end, and what they have not begun others can do: they have the same methods."""
        seen = self._seen()
        return {
            each.replica
            for each in self.replicas.values()
            if each.state == "retiring" and each.version.signature == seen.get(each.deployment)
        }

    def _seen(self) -> dict[DeploymentName, str]:
        """Of each deployment the methods that callers see."""
        ready = self._ready()
        return {name: each.serving(ready.get(name, ())).signature for name, each in self.deployments.items()}

    def job_seen(self, pilot: PilotId, phase: PilotPhase) -> None:
        """The scheduler says that a pilot is queued or running, or (``unknown``) gives no answer about it."""
        known = self.pilots.get(pilot)
        if known is not None and known.phase != "leaving":
            known.phase = phase

    def not_submitted(self, pilot: PilotId, cause: str, now: float, *, lasting: bool) -> tuple[Action, ...]:
        """A pilot was not submitted. ``lasting``: the same again and again would be a reason to give up."""
        if self.pilots.pop(pilot, None) is None:
            return ()
        reason = f"{NO_PILOT}: {cause}"
        if lasting:
            return tuple(self._pilot_failed(reason, "", now))
        self.submit_not_before_s = now + self.policy.pause_s
        served = {replica.deployment for replica in self._alive()}
        for deployment in self.deployments.values():
            if deployment.name not in served and not deployment.failed:
                deployment.reason = reason
        return ()

    def job_ended(self, pilot: PilotId, cause: str, output: str, now: float) -> tuple[Action, ...]:
        """A pilot has ended; ``output`` is the end of what it printed."""
        known = self.pilots.pop(pilot, None)
        if known is None:
            return ()
        actions: list[Action] = []
        for replica in [replica for replica in self.replicas.values() if replica.pilot == pilot]:
            del self.replicas[replica.replica]
            actions.append(ForgetReplica(replica.replica))
        # Of an adopted pilot that never reported to us nobody knows how it began: it may have ended in peace.
        # One whose agent had reported did begin well, and is replaced at once.
        if known.phase != "leaving" and not known.reported and not known.adopted:
            reason = f"pilot jobs end before their agents report, the last one, {pilot}, so: {cause}"
            actions += self._pilot_failed(f"{reason}; see: hpcserve logs {pilot}", output, now)
        return tuple(actions)

    def reported(
        self,
        pilot: PilotId,
        said: Iterable[ReplicaSaid],
        *,
        ends_s: float,
        leaving: bool,
        now: float,
    ) -> tuple[Action, ...]:
        """An agent's report came. ``ends_s`` is when its walltime is over, on our clock."""
        known = self.pilots.get(pilot)
        if known is None:
            return ()
        known.said = tuple(said)
        known.ends_s = ends_s
        if not known.reported:
            known.reported = True
            self.pilot_restarts.succeeded(now)
            for deployment in self.deployments.values():
                if not deployment.failed and deployment.reason.startswith(NO_PILOT):
                    deployment.reason = ""
        if leaving:
            known.phase = "leaving"
        elif known.phase != "leaving":
            known.phase = "running"
        return tuple(self._hear(known, now))

    def idle(self, replica: ReplicaId) -> None:
        """The broker says that a retiring replica holds nothing any more."""
        known = self.replicas.get(replica)
        if known is not None and known.state == "retiring":
            known.state = "retired"

    def hung(self, replica: ReplicaId, cause: str) -> None:
        """A replica is to be killed, and replaced at once."""
        known = self.replicas.get(replica)
        if known is not None and not known.ended and not known.kill:
            known.kill = True
            known.crashed = True
            known.cause = cause

    def unwanted(self, replica: ReplicaId) -> bool:
        """A replica runs what nobody waits for: it is to be killed, and replaced at once. False: it is about to end."""
        known = self.replicas.get(replica)
        if known is None or known.ended or known.kill:
            return False
        known.kill = known.unwanted = True
        return True

    def _hear(self, pilot: FleetPilot, now: float) -> Iterable[Action]:
        said = {replica.replica: replica for replica in pilot.said}
        for replica in [replica for replica in self.replicas.values() if replica.pilot == pilot.pilot]:
            words = said.get(replica.replica)
            if words is None:
                # Either it ended and the agent was told to forget it, or it was taken back before it was begun.
                if replica.seen or replica.ended or replica.state == "stopping" or replica.kill:
                    del self.replicas[replica.replica]
                    yield ForgetReplica(replica.replica)
                continue
            replica.seen = True
            if words.state in ENDED_STATES and not replica.ended:
                yield from self._replica_ended(replica, words, asked=pilot.phase == "leaving", now=now)
            elif words.state == "ready" and replica.state == "starting":
                replica.state = "ready"
                replica.ready = True
                if replica.deployment in self.deployments:
                    self.deployments[replica.deployment].restarts.succeeded(now)

    def _replica_ended(self, replica: FleetReplica, words: ReplicaSaid, *, asked: bool, now: float) -> Iterable[Action]:
        asked = (asked or replica.state in ("stopping", "retired")) and not replica.kill
        replica.ended = True
        replica.crashed = not asked and not replica.unwanted
        replica.cause = replica.cause or words.cause
        deployment = self.deployments.get(replica.deployment)
        if asked or replica.unwanted or replica.state == "retiring":
            return
        if deployment is None or replica.version != deployment.target:
            return
        deployment.restarts_count += 1
        if not deployment.failed:  # otherwise it is told why the wanted version failed, not its fallback
            deployment.reason = replica.cause
            deployment.traceback = words.traceback
        if replica.kill:
            return
        if replica.ready:
            deployment.not_before_s = deployment.restarts.crashed(now)
            deployment.unjudged += 1
            return
        again_s = deployment.restarts.failed(now)
        if again_s is None:
            yield self._fail(deployment, replica.cause, words.traceback)
        else:
            deployment.not_before_s = again_s

    @property
    def has_unjudged(self) -> bool:
        """Whether replicas that had been ready have ended since the last :meth:`judge`, or the first one is ready."""
        return any(self._is_unjudged(each) for each in self.deployments.values())

    def _is_unjudged(self, deployment: FleetDeployment) -> bool:
        if deployment.unjudged:
            return True
        return deployment.answered is None and deployment.target in self._ready().get(deployment.name, ())

    def judge(self, answered: Mapping[DeploymentName, int] | None) -> tuple[Action, ...]:
        """Whether a deployment whose replicas end does anything beside: where not, it fails in the end.

        Args:
            answered: So many requests each has had answered, counted by the broker; None: nobody can say.
        """
        return tuple(self._judge(answered))

    def _judge(self, answered: Mapping[DeploymentName, int] | None) -> Iterable[Action]:
        for deployment in self.deployments.values():
            is_unjudged = self._is_unjudged(deployment)
            crashes, deployment.unjudged = deployment.unjudged, 0
            if answered is None or not is_unjudged:
                continue
            count = answered.get(deployment.name, 0)
            # At the first look all are the work of other versions; a new broker counts from 0.
            worked = deployment.answered is not None and count > 0 and count != deployment.answered
            deployment.answered = count
            in_vain = deployment.restarts.in_vain(crashes, worked=worked)
            if in_vain is not None and deployment.target is not None:
                cause = f"{in_vain} replicas in a row ended without a request answered, the last one so: "
                yield self._fail(deployment, cause + deployment.reason, deployment.traceback, crashes=True)

    def _pilot_failed(self, reason: str, output: str, now: float) -> Iterable[Action]:
        again_s = self.pilot_restarts.failed(now)
        if again_s is not None:
            self.submit_not_before_s = again_s
            return
        self.pilot_restarts.succeeded(now)
        served = {replica.deployment for replica in self._alive()}
        for deployment in self.deployments.values():
            if deployment.name not in served and deployment.target is not None:
                yield self._fail(deployment, reason, output, pilots_ended=True)

    def _fail(
        self,
        deployment: FleetDeployment,
        reason: str,
        traceback: str,
        *,
        pilots_ended: bool = False,
        crashes: bool = False,
    ) -> FailDeployment:
        self._note_served()
        deployment.fail(reason, traceback, pilots_ended=pilots_ended, crashes=crashes)
        deployment.restarts, deployment.answered = self.restarts(), None  # the fallback has its own
        return FailDeployment(deployment.name, reason, traceback)

    def _apply(self, change: rules.Change, now: float) -> None:
        if isinstance(change, SubmitPilot):
            self.next_number += 1
            self.pilots[change.pilot] = FleetPilot(pilot=change.pilot, slots=self.policy.slots, idle_since_s=now)
        elif isinstance(change, CancelPilot):
            self.pilots[change.pilot].phase = "leaving"
        elif isinstance(change, StartReplica):
            self.next_number += 1
            self.replicas[change.replica] = FleetReplica(
                replica=change.replica,
                deployment=change.deployment,
                version=self._target(change),
                pilot=change.pilot,
            )
        elif isinstance(change, RetireReplica):
            self.replicas[change.replica].state = "retiring"
        else:
            self.replicas[change.replica].state = "stopping"

    def _target(self, start: StartReplica) -> Version:
        target = self.deployments[start.deployment].target
        assert target is not None, "none is started where none can be"
        return target

    def _alive(self) -> list[FleetReplica]:
        return [replica for replica in self.replicas.values() if not replica.ended]

    def _note_served(self) -> None:
        for name, versions in self._ready().items():
            if name in self.deployments:
                self.deployments[name].served = self.deployments[name].serving(versions)

    def _ready(self) -> dict[DeploymentName, list[Version]]:
        """The versions of the replicas that can answer."""
        found: dict[DeploymentName, list[Version]] = {}
        for replica in self._alive():
            if replica.state == "ready" and not replica.kill:
                found.setdefault(replica.deployment, []).append(replica.version)
        return found

    def _view(self) -> rules.View:
        resting = self.resting()
        return rules.View(
            policy=self.policy,
            wanted=tuple(
                rules.Wanted(
                    name=wanted.name,
                    version=(wanted.target or wanted.version).digest,
                    replicas=wanted.replicas,
                    not_before_s=wanted.not_before_s,
                    failed=wanted.target is None,
                )
                for wanted in self.deployments.values()
            ),
            pilots=tuple(
                rules.Pilot(
                    pilot=pilot.pilot,
                    phase=pilot.phase,
                    slots=pilot.slots,
                    reported=pilot.reported,
                    idle_since_s=pilot.idle_since_s,
                    ends_s=pilot.ends_s,
                )
                for pilot in self.pilots.values()
            ),
            replicas=tuple(
                rules.Replica(
                    replica=replica.replica,
                    deployment=replica.deployment,
                    version=replica.version.digest,
                    pilot=replica.pilot,
                    state="stopping" if replica.kill else replica.state,
                    resting=replica.replica in resting,
                )
                for replica in self._alive()
            ),
            seed=self.seed,
            next_number=self.next_number,
            submit_not_before_s=self.submit_not_before_s,
        )
