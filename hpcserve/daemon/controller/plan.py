"""From the fleet's books to what the broker and the agents are told. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from hpcserve.core.access import Deployment
from hpcserve.core.fleet import Fleet
from hpcserve.core.pilotlife import GIVEN_UP_S
from hpcserve.core.rollout import FleetDeployment, Version
from hpcserve.core.width import Ranks
from hpcserve.daemon.access import rule_of
from hpcserve.errors import DeploymentFailed
from hpcserve.registry.rows import DeploymentRow, ServableRow
from hpcserve.servable.manifest import Manifest, default_method, from_json, to_json
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire import hub
from hpcserve.wire.agents import Orders, ReplicaSpec
from hpcserve.wire.frames import error_to_wire
from hpcserve.wire.messages import Tune

MOST_CAUSE = 200
"""Of how a replica ended the broker is told so many characters: a failed setup's words may be very many."""

_OF_SITE = "site file"  # so do all say of it who find it at fault, and what is to be changed
_TELLS_TO = re.compile(
    "publish (and deploy )?the servable again|take the daemon down and up"
)  # nothing is wrong with it


class Servable(NamedTuple):
    """A published version, and where its files are."""

    version: Version
    manifest: Manifest
    path: str


Servables = Mapping[tuple[DeploymentName, str], Servable]
"""By deployment and version: all of which a replica may run, those that are being replaced included."""


def servable_of(row: ServableRow) -> Servable:
    """The version that stands in the store."""
    manifest = from_json(row.manifest_json)
    signature = msgspec.json.encode(manifest.methods, order="sorted").decode()
    ranks = Ranks(manifest.ranks.size, manifest.ranks.nodes, manifest.ranks.gpus_per_rank)
    return Servable(Version(row.version, signature, ranks), manifest, row.path)


def serving(fleet: Fleet, name: DeploymentName, servables: Servables) -> Servable:
    """The version whose methods callers of a wanted deployment see."""
    return servables[name, fleet.serving(name).digest]


def routes(
    fleet: Fleet,
    served: Mapping[DeploymentName, DeploymentRow],
    servables: Servables,
    access: Callable[[DeploymentName], Deployment] = lambda name: Deployment(),
) -> hub.Routes:
    """The broker's whole routing table.

    A replica is listed while its process may exist. One of a deployment that is not wanted any more is
    listed too, under a deployment that no endpoint leads to, so that it can finish. ``access``: whose a deployment is.
    """
    homes: dict[DeploymentName, list[ReplicaId]] = {name: [] for name in served}
    for replica in fleet.replicas.values():
        if not replica.ended:
            homes.setdefault(replica.deployment, []).append(replica.replica)
    return hub.Routes(
        {each.endpoint: name for name, each in served.items()},
        tuple(
            _route(
                fleet.deployments[name],
                served[name],
                serving(fleet, name, servables).manifest,
                tuple(replicas),
                rule_of(access(name)),
            )
            if name in served
            else hub.DeploymentRoute(name, {}, "", tuple(replicas))
            for name, replicas in homes.items()
        ),
        {each.replica: each.cause[:MOST_CAUSE] for each in fleet.replicas.values() if each.ended and each.crashed},
        tuple(sorted(fleet.resting())),
        tuple(sorted(fleet.giving_back())),
        fleet.ends(),
    )


def _route(
    known: FleetDeployment,
    row: DeploymentRow,
    manifest: Manifest,
    replicas: tuple[ReplicaId, ...],
    access: hub.AccessRule,
) -> hub.DeploymentRoute:
    methods = {method: hub.MethodRoute(spec.idempotent) for method, spec in manifest.methods.items()}
    error = None
    if known.target is None and not replicas:
        error = error_to_wire(
            DeploymentFailed(
                f"deployment {known.name!r} {'has stopped' if known.crashes else 'cannot start'}: {failure(known)}",
                remote_traceback=known.traceback or None,
            )
        )
    tune = Tune(row.objective_ms, row.max_batch_size, row.kill_cancelled_s)
    default = default_method(manifest)
    return hub.DeploymentRoute(
        known.name, methods, default, replicas, error, tune, row.max_queue_bytes, row.max_queue_s, access
    )


def failure(known: FleetDeployment) -> str:
    """Why a deployment failed, and what to do."""
    if known.pilots_ended:
        correct = "after that" if _OF_SITE in known.reason else "correct the site file, then"
        minutes = f"{GIVEN_UP_S / 60:g} minutes after this one"
        later = f"one is tried for whoever asks more than {minutes}" if known.may_sleep else f"one is tried {minutes}"
        to_do = f"{correct} hpcserve down and up; or deploy it again when pilot jobs start again"
        return f"{known.reason}; {to_do}; {later}"
    goes_on = f"; version {known.fallback.digest[:12]} goes on serving" if known.fallback is not None else ""
    if _TELLS_TO.search(known.reason):
        return known.reason + goes_on
    if _OF_SITE in known.reason:
        to_do = "deploy it again afterwards (if the site file was changed, after hpcserve down and up)"
    else:
        to_do = "correct the servable, publish and deploy it again"
    return f"{known.reason}; {to_do}{goes_on}"


def orders(
    fleet: Fleet,
    pilot: PilotId,
    incarnation: str,
    servables: Servables,
    *,
    setup_timeout_s: float,
    outbox_bytes: int,
    hang_grace_s: float,
) -> Orders:
    """All that the agent of a pilot is told."""
    wanted = fleet.orders(pilot)
    run = []
    for id in wanted.run:
        replica = fleet.replicas[id]
        servable = servables[replica.deployment, replica.version.digest]
        run.append(
            ReplicaSpec(
                id,
                replica.deployment,
                replica.version.digest,
                servable.path,
                to_json(servable.manifest),
                setup_timeout_s,
                outbox_bytes,
                hang_grace_s,
            )
        )
    return Orders(pilot, incarnation, tuple(run), wanted.kill, wanted.forget, wanted.stop, wanted.lost_nodes)
