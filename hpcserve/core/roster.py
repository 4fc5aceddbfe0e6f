"""The roster: all deployments, pilots and replicas of one controller, and which versions of them answer.

Who counts as alive, ready or resting is decided here, and what follows for the orders of an agent; what is to be done
about it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hpcserve.core import fleetview as rules
from hpcserve.core.fleetbook import ENDED_STATES, FleetPilot, FleetReplica, PilotOrders
from hpcserve.core.rollout import FleetDeployment, Version
from hpcserve.core.width import width_of
from hpcserve.types import DeploymentName, PilotId, ReplicaId


@dataclass(kw_only=True)
class Roster:
    """The tables of the fleet's books."""

    deployments: dict[DeploymentName, FleetDeployment] = field(default_factory=dict)
    pilots: dict[PilotId, FleetPilot] = field(default_factory=dict)
    replicas: dict[ReplicaId, FleetReplica] = field(default_factory=dict)

    def alive(self) -> list[FleetReplica]:
        """The replicas whose processes may exist."""
        return [replica for replica in self.replicas.values() if not replica.ended]

    def within(self, pilot: PilotId) -> list[FleetReplica]:
        """All replicas of a pilot, those that have ended included."""
        return [replica for replica in self.replicas.values() if replica.pilot == pilot]

    def ready(self) -> dict[DeploymentName, list[Version]]:
        """The versions of the replicas that can answer."""
        found: dict[DeploymentName, list[Version]] = {}
        for replica in self.alive():
            if replica.state == "ready" and not replica.kill:
                found.setdefault(replica.deployment, []).append(replica.version)
        return found

    def note_served(self) -> None:
        """Keeps of each deployment which version serves, for the time when none is ready."""
        for name, versions in self.ready().items():
            if name in self.deployments:
                self.deployments[name].served = self.deployments[name].serving(versions)

    def serving(self, name: DeploymentName) -> Version:
        """The version of a wanted deployment whose methods callers see."""
        return self.deployments[name].serving(self.ready().get(name, ()))

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

    def orders(self, pilot: PilotId) -> PilotOrders:
        """All that the agent of ``pilot`` is to be told at this moment."""
        here = [replica for replica in self.alive() if replica.pilot == pilot]
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
            lost_nodes=known.all_lost_nodes if known is not None else (),
        )

    def wanted_view(self, replicas_per_gpu: int = 1) -> tuple[rules.Wanted, ...]:
        """The deployments, as the rules see them."""
        return tuple(
            rules.Wanted(
                name=wanted.name,
                version=(wanted.target or wanted.version).digest,
                replicas=wanted.due,
                not_before_s=wanted.not_before_s,
                failed=wanted.target is None,
                waits_since_s=wanted.waits_since_s,
                width=width_of(wanted.ranks, replicas_per_gpu),
            )
            for wanted in self.deployments.values()
        )

    def replicas_view(self, replicas_per_gpu: int = 1) -> tuple[rules.Replica, ...]:
        """The replicas that are alive, as the rules see them."""
        resting = self.resting()
        return tuple(
            rules.Replica(
                replica=replica.replica,
                deployment=replica.deployment,
                version=replica.version.digest,
                pilot=replica.pilot,
                state="stopping" if replica.kill else replica.state,
                resting=replica.replica in resting,
                width=width_of(replica.version.ranks, replicas_per_gpu),
                hosts=replica.nodes,
                slots=replica.slots,
                waits=replica.waits,
            )
            for replica in self.alive()
        )

    def _seen(self) -> dict[DeploymentName, str]:
        """Of each deployment the methods that callers see."""
        ready = self.ready()
        return {name: each.serving(ready.get(name, ())).signature for name, each in self.deployments.items()}
