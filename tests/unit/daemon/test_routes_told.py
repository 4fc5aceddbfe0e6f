"""What the broker is told of a deployment whose newest version failed."""

from __future__ import annotations

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.core.fleetview import Policy, StartReplica
from hpcserve.core.rollout import Version
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.failures import NEVER_READY, Failures, PilotFailures
from hpcserve.daemon.controller.plan import Servable, routes
from hpcserve.registry.rows import DeploymentRow
from hpcserve.servable.manifest import Manifest, MethodSpec
from hpcserve.types import DeploymentName, Digest, EndpointName, PilotId, ReplicaId

NAME = DeploymentName("d")
OLD, NEW = Version("old", "f(x)"), Version("new", "f(x)")


class Play:
    """A fleet with one pilot, whose agent reports what the test says."""

    def __init__(self) -> None:
        self.fleet = Fleet(
            policy=Policy(max_pilots=1, slots=8, idle_s=60),
            seed="s-",
            restarts=lambda: Failures(NEVER_READY),
            pilot_restarts=PilotFailures(),
            succession=Succession(walltime_s=1e9, margin_s=0.0, first_wait_s=0.0),
        )
        self.now = 0.0
        self.said: dict[ReplicaId, str] = {}

    @property
    def pilot(self) -> PilotId:
        return next(iter(self.fleet.pilots))

    def goes_on(self) -> None:
        """A second passes: what is started of the old version becomes ready, what is of the new one fails."""
        self.now += 1
        for action in self.fleet.step(self.now):
            if isinstance(action, StartReplica):
                self.said[action.replica] = "ready" if action.version == OLD.digest else "failed"
        self.fleet.job_seen(self.pilot, "running")
        self.report()
        for replica in self.fleet.orders(self.pilot).forget:
            self.said.pop(replica, None)
        self.report()

    def report(self) -> None:
        said = [ReplicaSaid(replica, state, "boom") for replica, state in self.said.items()]
        self.fleet.reported(self.pilot, said, ends_s=1e9, leaving=False, now=self.now)


def test_the_fallbacks_only_replica_may_die_without_an_error_for_what_is_queued() -> None:
    play = Play()
    play.fleet.want(NAME, OLD, 1)
    for _ in range(3):
        play.goes_on()
    play.fleet.want(NAME, NEW, 1)
    while not play.fleet.deployments[NAME].failed:
        play.goes_on()
        assert play.now < 120
    assert play.fleet.deployments[NAME].fallback == OLD
    (replica,) = [each.replica for each in play.fleet.replicas.values() if each.version == OLD and not each.ended]
    play.said[replica] = "exited"
    play.report()
    manifest = Manifest("d", "python", methods={"f": MethodSpec((), ())})
    row = DeploymentRow(NAME, "d", Digest("new"), 1, EndpointName("d"), 0.0)
    servables = {(NAME, version.digest): Servable(version, manifest, "/s") for version in (OLD, NEW)}
    (route,) = routes(play.fleet, {NAME: row}, servables).deployments
    assert (route.replicas, route.error) == ((), None)
