"""The controller's books as they begin: empty, with the limits of a site."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from hpcserve.config import Site, own_queues
from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetview import Policy
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.failures import NEVER_READY, Failures, PilotFailures
from hpcserve.daemon.controller.gpus import gpus_by_directive

MARGIN_S = 3.0
"""Before ``stop_grace_s`` and the agent's own margin, the time in which its replicas are told to end."""


def fleet_of(site: Site) -> Fleet:
    """Empty books, with the limits of the site."""
    pilots = site.pilots
    return Fleet(
        policy=Policy(
            max_pilots=pilots.max_pilots,
            slots=pilots.nodes * pilots.slots,
            idle_s=pilots.idle_s,
            nodes=pilots.nodes,
            orphan_s=pilots.orphan_s,
            max_queued=_least(queue.max_queued for queue in own_queues(site)),
            max_running=_least(queue.max_running for queue in own_queues(site)),
            gpus_per_node=pilots.gpus_per_node,
            gpus_by_directive=gpus_by_directive(site),
            replicas_per_gpu=pilots.replicas_per_gpu,
        ),
        seed=secrets.token_hex(2) + "-",
        restarts=lambda: Failures(NEVER_READY),
        pilot_restarts=PilotFailures(),
        succession=Succession(
            walltime_s=pilots.walltime_s,
            margin_s=pilots.stop_grace_s + MARGIN_S,
            first_wait_s=pilots.queue_wait_s,
        ),
    )


def _least(limits: Iterable[int]) -> int | None:
    """The limit that binds; None: there is none."""
    return min((limit for limit in limits if limit), default=None)
