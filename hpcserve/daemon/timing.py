"""How long the supervisor gives its children, so that it fits the site's own times."""

from __future__ import annotations

import msgspec

from hpcserve.config import RETRY_S, Site
from hpcserve.core.restarts import DEFAULT as DEFAULT_POLICY
from hpcserve.core.restarts import Policy


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How long things may take: a child to be ready, the controller to end the pilots, the others to end.

    A child that somebody has stopped goes on after ``stopped_s``. ``restarts`` says how often a child may end.
    """

    ready_s: float = 60.0
    controller_s: float = 20.0
    others_s: float = 3.0
    stopped_s: float = 30.0
    restarts: Policy = DEFAULT_POLICY


def timing_of(site: Site) -> Timing:
    """What fits the site.

    The controller has time to end pilots that have time to stop their replicas, and to ask the scheduler after that.
    The agents wait for ``orphan_s``: of that, one of their own pauses may pass; half of the rest is for the pause
    before a restart, half for the start.
    """
    longest_s = min(DEFAULT_POLICY.longest_s, (site.pilots.orphan_s - RETRY_S) / 2)
    return Timing(
        controller_s=2 * site.pilots.stop_grace_s + 10.0 + site.scheduler.poll_s + site.scheduler.timeout_s,
        restarts=msgspec.structs.replace(DEFAULT_POLICY, longest_s=longest_s),
    )
