"""From the fleet's books to what the broker and the agents are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from hpcserve.core.fleet import Fleet, FleetDeployment
from hpcserve.errors import DeploymentFailed
from hpcserve.registry.rows import DeploymentRow
from hpcserve.servable.manifest import Manifest, default_method, to_json
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire import hub
from hpcserve.wire.frames import error_to_wire
from hpcserve.wire.messages import Orders, ReplicaSpec


class Served:
    """A deployment that is wanted: its row, its servable's manifest and where its files are."""

    def __init__(self, row: DeploymentRow, manifest: Manifest, path: str) -> None:
        self.row = row
        self.manifest = manifest
        self.path = path


def routes(fleet: Fleet, served: Mapping[DeploymentName, Served]) -> hub.Routes:
    """The broker's whole routing table.

    A replica is listed while its process may exist. One of a deployment that is not wanted any more is
    listed too, under a deployment that no endpoint leads to, so that it can finish.
    """
    homes: dict[DeploymentName, list[ReplicaId]] = {name: [] for name in served}
    for replica in fleet.replicas.values():
        if not replica.ended:
            homes.setdefault(replica.deployment, []).append(replica.replica)
    return hub.Routes(
        {each.row.endpoint: name for name, each in served.items()},
        tuple(
            _route(name, served.get(name), fleet.deployments.get(name), tuple(replicas))
            for name, replicas in homes.items()
        ),
        tuple(each.replica for each in fleet.replicas.values() if each.ended and each.crashed),
        tuple(each.replica for each in fleet.replicas.values() if each.state not in {"starting", "ready"}),
    )


def _route(
    name: DeploymentName, served: Served | None, known: FleetDeployment | None, replicas: tuple[ReplicaId, ...]
) -> hub.DeploymentRoute:
    if served is None:
        return hub.DeploymentRoute(name, "", {}, "", replicas)
    methods = {method: hub.MethodRoute(spec.idempotent) for method, spec in served.manifest.methods.items()}
    error = None
    if known is not None and known.failed and not replicas:
        error = error_to_wire(
            DeploymentFailed(
                f"deployment {name!r} cannot start: {known.reason}; correct the servable and deploy it again",
                remote_traceback=known.traceback or None,
            )
        )
    return hub.DeploymentRoute(name, served.row.version, methods, default_method(served.manifest), replicas, error)


def orders(
    fleet: Fleet,
    pilot: PilotId,
    incarnation: str,
    specs: Mapping[tuple[DeploymentName, str], Served],
    *,
    setup_timeout_s: float,
    outbox_bytes: int,
) -> Orders:
    """All that the agent of a pilot is told.

    ``specs``: every deployment and version of which a replica may run, those that are being replaced included.
    """
    wanted = fleet.orders(pilot)
    run = []
    for id in wanted.run:
        replica = fleet.replicas[id]
        served = specs[replica.deployment, replica.version]
        run.append(
            ReplicaSpec(
                id,
                replica.deployment,
                replica.version,
                served.path,
                to_json(served.manifest),
                setup_timeout_s,
                outbox_bytes,
            )
        )
    return Orders(pilot, incarnation, tuple(run), wanted.kill, wanted.forget, wanted.stop)
