"""The log says each change of how many replicas a deployment is to have once, and why."""

from __future__ import annotations

import pytest

from hpcserve.daemon.controller.targets import Targets
from tests.unit.core.test_scaled_fleet import V1, D, Site


def test_each_change_is_told_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    targets = Targets(site.fleet)
    with caplog.at_level("INFO", "hpcserve.daemon.controller.targets"):
        targets.note()
        site.demand(came=1240, queued=1240, service_s=0.1)
        targets.note()
        site.demand(came=1240, queued=1000, service_s=0.1)
        targets.note()
        site.fleet.want(D, V1, 1)
        targets.note()
        site.fleet.unwant(D)
        targets.note()
        targets.note()
    assert caplog.messages == [
        f"deployment {D}: no replica, because its demand is not measured yet",
        f"deployment {D}: 3 replicas instead of 0, because 1,240 requests wait",
        f"deployment {D}: 1 replica instead of 3, because that is what was asked for",
        f"deployment {D} is not wanted any more",
    ]
