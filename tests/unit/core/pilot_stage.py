"""A fleet whose scheduler, agents and broker are the test: for tests of what happens to pilots."""

from __future__ import annotations

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import Action, FailDeployment, ReplicaLost, ReplicaSaid
from hpcserve.core.fleetview import Policy, StartReplica, SubmitPilot
from hpcserve.core.losses import Loss
from hpcserve.core.rollout import Version
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.failures import NEVER_READY, Failures, PilotFailures
from hpcserve.types import DeploymentName, LossKind, PilotId, ReplicaId

D = DeploymentName("d")
V = Version("v1", "f(x)")
WALLTIME_S, MARGIN_S, WAIT_S = 1000.0, 10.0, 100.0


class Play:
    """A fleet, the pilots that it submitted, and replicas that become what the test says."""

    def __init__(self, *, nodes: int = 1, max_pilots: int = 4) -> None:
        self.now = 1000.0
        self.policy = Policy(max_pilots=max_pilots, slots=2 * nodes, idle_s=60.0, nodes=nodes, orphan_s=300.0)
        self.fleet = self._books("s-")
        self.said: dict[PilotId, dict[ReplicaId, ReplicaSaid]] = {}
        self.ends_s: dict[PilotId, float] = {}
        self.done: list[Action] = []

    def _books(self, seed: str) -> Fleet:
        return Fleet(
            policy=self.policy,
            seed=seed,
            restarts=lambda: Failures(NEVER_READY),
            pilot_restarts=PilotFailures(),
            succession=Succession(walltime_s=WALLTIME_S, margin_s=MARGIN_S, first_wait_s=WAIT_S),
        )

    def take_over(self) -> None:
        """Another controller begins, which knows nothing yet."""
        self.fleet = self._books("t-")

    def note(self, actions: tuple[Action, ...]) -> tuple[Action, ...]:
        self.done += actions
        for each in actions:
            if isinstance(each, SubmitPilot):
                self.said[each.pilot] = {}
            elif isinstance(each, StartReplica):
                self.said[each.pilot][each.replica] = ReplicaSaid(each.replica, "starting")
        return actions

    def step(self, seconds: float = 1.0) -> tuple[Action, ...]:
        self.now += seconds
        return self.note(self.fleet.step(self.now))

    def report(self, pilot: PilotId, *, leaving: bool = False, lost_nodes: tuple[str, ...] = ()) -> None:
        ends_s = self.ends_s.setdefault(pilot, self.now + WALLTIME_S)
        said = tuple(self.said[pilot].values())
        self.note(
            self.fleet.reported(
                pilot,
                said,
                ends_s=ends_s,
                leaving=leaving,
                now=self.now,
                lost_nodes=lost_nodes,
                host="n1.cluster",
            )
        )
        self.step()

    def become(self, pilot: PilotId, state: str, kind: LossKind = "", host: str = "n1") -> None:
        for replica in self.said[pilot]:
            self.said[pilot][replica] = ReplicaSaid(replica, state, "words", kind=kind, host=host)
        self.report(pilot)

    def serve(self, replicas: int = 1) -> PilotId:
        """A deployment with all its replicas ready in one pilot."""
        self.fleet.want(D, V, replicas)
        self.step()
        (pilot,) = self.said
        self.now += 4.0
        self.report(pilot)
        self.now += 2.0
        self.become(pilot, "ready")
        return pilot

    def end(self, pilot: PilotId, kind: LossKind, cause: str = "how") -> None:
        self.note(self.fleet.job_ended(pilot, cause, "last words", self.now, kind=kind))
        del self.said[pilot]
        self.step()

    @property
    def losses(self) -> list[Loss]:
        return [each.loss for each in self.done if isinstance(each, ReplicaLost)]

    @property
    def submitted(self) -> list[PilotId]:
        return [each.pilot for each in self.done if isinstance(each, SubmitPilot)]

    @property
    def failures(self) -> list[FailDeployment]:
        return [each for each in self.done if isinstance(each, FailDeployment)]
