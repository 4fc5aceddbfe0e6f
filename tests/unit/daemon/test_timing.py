"""The supervisor's times fit those of the site."""

from __future__ import annotations

import msgspec
import pytest

from hpcserve.config import RETRY_S, Pilots, load_site
from hpcserve.core.restarts import RestartAt, Restarts
from hpcserve.daemon.timing import timing_of
from hpcserve.pilot import link as pilot_link
from hpcserve.replica import link as replica_link


@pytest.mark.parametrize(("orphan_s", "longest_s"), [(4.0, 1.0), (5.0, 1.5), (22.0, 10.0), (600.0, 10.0)])
def test_no_pause_before_a_restart_outlasts_the_agents(orphan_s: float, longest_s: float) -> None:
    site = msgspec.structs.replace(load_site("local"), pilots=Pilots(orphan_s=orphan_s))
    restarts = Restarts(timing_of(site).restarts)
    pauses, now = [], 0.0
    for _ in range(20):
        restarts.started(now)
        now += 9.0  # it runs for a while, but not for so long that the next pause is short again
        verdict = restarts.exited(now)
        assert isinstance(verdict, RestartAt)
        pauses.append(verdict.at_s - now)
        now = verdict.at_s
    assert max(pauses) == pytest.approx(longest_s)


def test_agents_and_replicas_pause_no_longer_than_the_site_file_reckons_with() -> None:
    assert pilot_link.LONGEST_RETRY_S <= RETRY_S
    assert replica_link.LONGEST_WAIT_S <= RETRY_S
