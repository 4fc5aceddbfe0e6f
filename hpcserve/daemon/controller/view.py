"""The daemon as ``hpcserve status`` shows it: the fleet's books and the broker's statistics in one."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

import hpcserve
from hpcserve.config import in_words
from hpcserve.core.access import Service
from hpcserve.core.capacity import lack_of_room, shared_room
from hpcserve.core.fleetbook import FleetPilot, FleetReplica
from hpcserve.core.guesses import credible
from hpcserve.core.outlook import Queued, awaited, plan_in_words, soonest_s
from hpcserve.core.rollout import FleetDeployment
from hpcserve.core.spans import span
from hpcserve.core.width import Ranks, width
from hpcserve.daemon import processes
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.guard import Asking
from hpcserve.daemon.controller.plan import failure, serving
from hpcserve.daemon.controller.staged import Tally
from hpcserve.errors import ServiceUnavailable
from hpcserve.registry.rows import DeploymentRow, ServableRow
from hpcserve.registry.store import Store
from hpcserve.servable.manifest import from_json
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire import hub
from hpcserve.wire.admin import DeploymentView, PilotView, ReplicaView, ServableView, Status

_STARTED = time.monotonic()


async def status_of(controller: Controller, asking: Asking) -> Status:
    """What a caller may see. While the broker is away its counts are those of an empty one, recovering.

    Pilots and processes are everybody's whom any list names.
    """
    named = controller.guard.sees(asking, Service())
    all_of_it = controller.guard.administers(asking)
    seen = [row for row in controller.served.values() if all_of_it or controller.sees(asking, row.name)]
    hidden = controller.served.keys() - {row.name for row in seen}
    unnamed = frozenset() if all_of_it else controller.hidden_servables(asking)
    try:
        stats = await controller.hub.stats()
    except ServiceUnavailable:
        stats = hub.Stats(0, controller.epoch, 0.0, 0, 0, 0, 0, 0, 0, 0, True, (), ())
    loads = {load.replica: load for load in stats.replicas}
    queues = {load.deployment: load for load in stats.deployments}
    staged = controller.staged.tally if all_of_it else Tally()
    return Status(
        service=controller.site.name,
        site=controller.site.name,
        host=socket.gethostname(),
        software=f"hpcserve {hpcserve.__version__}",
        epoch=stats.epoch,
        uptime_s=time.monotonic() - _STARTED,
        processes=processes.running(controller.runtime_dir) | {"controller": os.getpid()} if named else {},
        sessions=stats.sessions,
        requests=stats.requests,
        answered=stats.answered,
        failed=stats.failed,
        refused=stats.refused,
        requeued=stats.requeued,
        held_bytes=stats.held_bytes,
        recovering=stats.recovering,
        servables=tuple(await _servables(controller, unnamed)),
        deployments=tuple(_deployment(controller, each, loads, queues, hidden) for each in seen),
        pilots=tuple(_pilot(controller, pilot) for pilot in controller.pilots.jobs if named),
        losses=tuple(
            each
            for each in controller.losses.views
            if all_of_it or controller.guard.sees(asking, controller.ownership.ran(each.replica))
        ),
        trouble=controller.fence.trouble if named else "",
        staged_results=staged.files,
        staged_bytes=staged.size_bytes,
        undelivered_results=staged.undelivered,
        undelivered_bytes=staged.undelivered_bytes,
        undelivered_since_s=staged.oldest_s,
        staged_free_bytes=staged.free_bytes,
    )


async def _servables(controller: Controller, hidden: Collection[str]) -> Iterable[ServableView]:
    def read(store: Store) -> list[tuple[ServableRow, dict[str, str]]]:
        return [(row, dict(store.aliases(row.name))) for row in store.servables()]

    return [
        ServableView(
            name=row.name,
            version=row.version,
            aliases=tuple(sorted(alias for alias, version in aliases.items() if version == row.version)),
            methods=tuple(from_json(row.manifest_json).methods),
            owner=controller.ownership.servable(row.name).owner,
            visible_to=in_words(controller.ownership.servable(row.name).visible_to),
        )
        for row, aliases in await controller.storage.do(read)
        if row.name not in hidden
    ]


def _deployment(
    controller: Controller,
    row: DeploymentRow,
    loads: dict[ReplicaId, hub.ReplicaLoad],
    queues: dict[DeploymentName, hub.DeploymentLoad],
    hidden: Collection[DeploymentName],
) -> DeploymentView:
    """A deployment is ready when so many replicas of the wanted version are; those of others do not count."""
    known = controller.fleet.deployments[row.name]
    queue = queues.get(row.name) or hub.DeploymentLoad(row.name, 0)
    mine = [each for each in controller.fleet.replicas.values() if each.deployment == row.name and not each.ended]
    replicas = tuple(_replica(controller, each, loads) for each in mine)
    ready = sum(each.state == "ready" and each.version == row.version for each in replicas)
    state = "failed" if known.failed else "ready" if ready >= (known.due or known.replicas) else "starting"
    if state == "ready" and not known.replicas:
        state = "paused" if known.scaler is None else "idle"  # paused: requests wait
    if controller.fleet.is_draining:
        state = "draining"
    manifest = serving(controller.fleet, row.name, controller.servables).manifest
    return DeploymentView(
        deployment=row.name,
        endpoints=(row.endpoint,),
        version=row.version,
        methods=tuple(manifest.methods),
        wanted=known.replicas,
        objective_ms=row.objective_ms,
        max_batch_size=row.max_batch_size,
        max_queue_bytes=row.max_queue_bytes,
        max_queue_s=row.max_queue_s,
        state=state,
        error=_error(controller, known, hidden),
        traceback=known.traceback,
        queued=queue.queued,
        queued_bytes=queue.queued_bytes,
        refused=queue.refused,
        expired=queue.expired,
        wait_s=queue.wait_s,
        restarts=known.restarts_count,
        replicas=replicas,
        kill_cancelled_s=row.kill_cancelled_s,
        min_replicas=row.replicas,
        max_replicas=row.max_replicas,
        hot_replicas=row.hot_replicas,
        idle_s=row.idle_s,
        plan=_plan(controller, known, len(mine), queue.queued),
        image=manifest.environment.image or "",
        image_sha256=manifest.environment.published.sha256 if manifest.environment.published else "",
        owner=row.owner,
    )


def _plan(controller: Controller, known: FleetDeployment, here: int, waiting: int) -> str:
    """What is to come, and why. Which deployment gets the slots of a pilot is decided when it is there."""
    fleet = controller.fleet
    queued = [
        Queued(
            slots=each.slots,
            starts_in_s=_starts_in_s(controller, each.pilot),
            submitted=_is_submitted(controller, each.pilot),
        )
        for each in fleet.pilots.values()
        if each.phase == "queued"
    ]
    held = Counter(each.deployment for each in fleet.replicas.values() if not each.ended)
    lacking = {name: max(0, each.due - held[name]) for name, each in fleet.deployments.items() if each.target}
    sharing = sum(lacks > 0 for name, lacks in lacking.items() if name != known.name)
    slots = {name: lacks * _slots(controller, fleet.deployments[name].ranks) for name, lacks in lacking.items()}
    coming = awaited(queued, sum(slots.values()))
    starts_at = _time_of_day(soonest_s(coming))
    room = shared_room(fleet.policy, known, fleet.deployments.values())
    return plan_in_words(
        known,
        here=here,
        queued=len(coming),
        sharing=sharing,
        starts_at=starts_at,
        room=room,
        unsubmitted=sum(not each.submitted for each in coming),
        waiting=waiting,
    )


def _is_submitted(controller: Controller, pilot: PilotId) -> bool:
    """Whether the scheduler has it, as far as is known."""
    job = controller.pilots.jobs.get(pilot)
    return job is not None and job.name is not None


def _starts_in_s(controller: Controller, pilot: PilotId) -> float | None:
    job = controller.pilots.jobs.get(pilot)
    return None if job is None else credible(job.starts_in_s)


def _time_of_day(in_s: float | None) -> str:
    """The time of this host, with the day if that is not today."""
    if in_s is None:
        return ""
    now = datetime.now().astimezone()
    then = now + timedelta(seconds=in_s)
    return then.strftime("%H:%M" if then.date() == now.date() else "%a %d %b %H:%M")


def _error(controller: Controller, known: FleetDeployment, hidden: Collection[DeploymentName]) -> str:
    """Why a deployment failed, or is not ready yet; and the last thing that went wrong."""
    fleet = controller.fleet
    if known.failed:
        return failure(known)
    alive = [each for each in fleet.replicas.values() if not each.ended]
    lack = lack_of_room(fleet.policy, known, fleet.deployments.values(), alive, hidden)
    here = sum(each.deployment == known.name for each in alive)
    waits = "" if here >= known.due else _waits(controller)
    return "; ".join(each for each in (lack, waits, known.reason) if each)


def _waits(controller: Controller) -> str:
    """Which pilots are not there yet, and why: what holds for several is told once."""
    told: dict[str, list[PilotId]] = {}
    for pilot in controller.fleet.pilots.values():
        if pilot.waits_for and pilot.phase != "leaving":
            why = f"{pilot.phase}: {pilot.waits_for}{_guess(controller, pilot.pilot)}"
            told.setdefault(why, []).append(pilot.pilot)
    return "; ".join(f"{', '.join(them)} {'is' if len(them) == 1 else 'are'} {why}" for why, them in told.items())


def _guess(controller: Controller, pilot: PilotId) -> str:
    starts_in_s = _starts_in_s(controller, pilot)
    return "" if starts_in_s is None else f" (expected to start in {span(starts_in_s)})"


def _replica(controller: Controller, replica: FleetReplica, loads: dict[ReplicaId, hub.ReplicaLoad]) -> ReplicaView:
    """A replica is ready when its setup is done and the broker knows it; draining, when it is to be replaced."""
    load = loads.get(replica.replica)
    connected = load is not None and load.connected
    state = "connecting" if replica.state == "ready" and not connected else str(replica.state)
    known = controller.fleet.deployments.get(replica.deployment)
    if state == "ready" and known is not None and replica.version != known.target:
        state = "draining"
    report = controller.agents.reports.get(replica.pilot)
    said = {each.replica: each for each in report.replicas}.get(replica.replica) if report is not None else None
    return ReplicaView(
        replica=replica.replica,
        version=replica.version.digest,
        state=state,
        pilot=replica.pilot,
        pid=None if said is None else said.pid,
        waiting=load.waiting if load is not None else 0,
        answered=load.answered if load is not None else 0,
        connected=connected,
        learned=load.learned if load is not None else (),
        devices=load.devices if load is not None else (),
        phases={} if said is None else said.phases,
        ranks=replica.version.ranks.size,
        nodes=replica.version.ranks.nodes,
        slots=_slots(controller, replica.version.ranks),
        cause="" if said is None or said.state not in ("starting", "ready") else said.cause,
    )


def _slots(controller: Controller, ranks: Ranks) -> int:
    return width(ranks, controller.fleet.policy.replicas_per_gpu)


def _pilot(controller: Controller, pilot: PilotId) -> PilotView:
    job = controller.pilots.jobs[pilot]
    known = controller.fleet.pilots.get(pilot)
    report = controller.agents.reports.get(pilot)
    return PilotView(
        pilot=pilot,
        state=job.row.state if known is None else _pilot_state(known),
        job=job.name or "",
        host=report.host if report is not None else job.state.host,
        pid=report.pid if report is not None else None,
        replicas=len(report.replicas) if report is not None else 0,
        slots=known.slots if known is not None else 0,
        walltime_left_s=None if known is None or known.ends_s is None else max(0.0, known.ends_s - time.monotonic()),
        waits_for=known.waits_for if known is not None else "",
        starts_in_s=credible(job.starts_in_s),
        restarts=job.row.restarts,
        phases=controller.agents.phases.get(pilot, {}),
        used=sum(
            _slots(controller, each.version.ranks)
            for each in controller.fleet.replicas.values()
            if each.pilot == pilot and not each.ended
        ),
    )


def _pilot_state(pilot: FleetPilot) -> str:
    return "unreachable" if pilot.away_since_s is not None and pilot.phase == "running" else pilot.phase
