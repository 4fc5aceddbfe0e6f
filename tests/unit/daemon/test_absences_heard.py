"""The broker reports an absence again and again; the scheduler is asked about it once."""

from __future__ import annotations

import logging

import pytest

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import ReplicaSaid
from hpcserve.core.fleetview import Policy
from hpcserve.core.rollout import Version
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.absent import Absent
from hpcserve.daemon.controller.failures import NEVER_READY, Failures, PilotFailures
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire import hub

P, R, D = PilotId("pilot-1"), ReplicaId("d-1"), DeploymentName("d")
PRESENT = [ReplicaSaid(R, "ready", host="node1")]


class Listening(Absent):
    """Books with one replica; counts how often the scheduler is looked at, and what follows."""

    def __init__(self) -> None:
        self.looks = self.changes = 0
        self.fleet = Fleet(
            policy=Policy(max_pilots=1, slots=1, idle_s=60.0),
            seed="s",
            restarts=lambda: Failures(NEVER_READY),
            pilot_restarts=PilotFailures(),
            succession=Succession(walltime_s=60.0, margin_s=0.0, first_wait_s=0.0),
        )
        self.fleet.adopt_pilot(P, 1, 0.0)
        self.fleet.adopt_replica(R, D, Version("v"), P)
        super().__init__(self.fleet, self._looked, self._changed)
        self.comes_back()

    def comes_back(self, host: str = "") -> None:
        self.fleet.reported(P, PRESENT, ends_s=60.0, leaving=False, now=0.0, host=host)

    def _looked(self) -> None:
        self.looks += 1

    def _changed(self) -> None:
        self.changes += 1


def looks(controller: Listening, role: str, subject: str, times: int = 3) -> int:
    before = controller.changes
    for n in range(times):
        controller.hear(hub.Away(subject, role, 5.0 + 2 * n))
    assert controller.changes == before + times
    return controller.looks


def test_the_scheduler_is_asked_once_about_an_absence_of_an_agent() -> None:
    controller = Listening()
    assert looks(controller, "agent", P) == 1
    assert controller.fleet.pilots[P].away_since_s is not None


def test_and_again_about_the_next_one() -> None:
    controller = Listening()
    looks(controller, "agent", P)
    controller.comes_back()
    assert looks(controller, "agent", P) == 2


def test_once_about_a_replica() -> None:
    controller = Listening()
    assert looks(controller, "replica", R) == 1
    assert controller.fleet.replicas[R].ended


def test_not_about_a_replica_that_its_agent_has_in_its_sight() -> None:
    controller = Listening()
    controller.comes_back("node1")
    assert looks(controller, "replica", R) == 0
    assert not controller.fleet.replicas[R].ended
    assert looks(controller, "agent", P) == 1
    assert controller.fleet.replicas[R].ended


def test_that_a_replica_is_missed_is_told_once_though_it_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    controller = Listening()
    controller.comes_back("node1")
    with caplog.at_level(logging.WARNING):
        looks(controller, "replica", R)
    (told,) = caplog.messages
    assert told.startswith(f"replica {R} has had no connection for 5.0 s, and its agent sees that it lives")


def test_not_about_those_that_nobody_misses() -> None:
    assert looks(Listening(), "agent", "pilot-9") + looks(Listening(), "replica", "d-9") == 0
