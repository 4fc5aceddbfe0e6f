"""A report whose pilot ends, or is requeued, while the store is asked what its replicas run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetview import Policy
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.agents import Agents
from hpcserve.daemon.controller.failures import NEVER_READY, Failures, PilotFailures
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire import hub
from hpcserve.wire.agents import ReplicaStatus, Report
from hpcserve.wire.frames import encode

P, R, D = PilotId("pilot-1"), ReplicaId("d-1"), DeploymentName("d")
REPORT = Report(
    pilot=P,
    incarnation="first",
    host="node1",
    pid=1,
    slots=1,
    walltime_left_s=60.0,
    replicas=(ReplicaStatus(R, "ready", b"k" * 32, deployment=D, version="v"),),
)


class Stage:
    """Agents of one pilot, and a store during whose answer something happens."""

    def __init__(self, meanwhile: Callable[[dict[PilotId, Any]], object]) -> None:
        self.jobs: dict[PilotId, Any] = {P: SimpleNamespace(row=SimpleNamespace(incarnation="first"))}
        self.told: list[object] = []
        self.acted = 0
        self.fleet = Fleet(
            policy=Policy(max_pilots=1, slots=1, idle_s=60.0),
            seed="s",
            restarts=lambda: Failures(NEVER_READY),
            pilot_restarts=PilotFailures(),
            succession=Succession(walltime_s=60.0, margin_s=0.0, first_wait_s=0.0),
        )

        async def answers_late(*_: object) -> None:
            await asyncio.sleep(0)
            meanwhile(self.jobs)

        pilots: Any = SimpleNamespace(jobs=self.jobs)
        storage: Any = SimpleNamespace(do=answers_late)
        line: Any = SimpleNamespace(tell=self.told.append)
        served: Any = {D: None}
        telling: Any = SimpleNamespace(tell_again=lambda _: None)
        self.agents = Agents(
            storage=storage,
            line=line,
            pilots=pilots,
            fleet=self.fleet,
            served=served,
            servables={},
            telling=telling,
            act=self._act,
        )

    async def _act(self, actions: Iterable[object]) -> None:
        self.acted += 1 + len(list(actions))

    def hear(self) -> None:
        asyncio.run(self.agents.hear(hub.AgentSays(P, encode(REPORT))))


def requeue(jobs: dict[PilotId, Any]) -> None:
    jobs[P] = SimpleNamespace(row=SimpleNamespace(incarnation="second"))


@pytest.mark.parametrize("meanwhile", [dict.clear, requeue])
def test_it_is_not_heard(meanwhile: Callable[[dict[PilotId, Any]], object]) -> None:
    stage = Stage(meanwhile)
    stage.hear()
    assert stage.agents.reports == {}
    assert stage.fleet.replicas == {}
    assert stage.told == []
    assert stage.acted == 0


def test_that_of_a_pilot_that_lives_is() -> None:
    stage = Stage(lambda _: None)
    stage.hear()
    assert stage.agents.reports == {P: REPORT}
