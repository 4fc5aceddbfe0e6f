"""The controller's loop: what changes while it is busy is not forgotten, and where nothing does it rests."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hpcserve.config import Scheduler, load_site
from hpcserve.core.fleetbook import FleetPilot
from hpcserve.core.fleetview import PilotPhase, ReplicaState
from hpcserve.core.rollout import Version
from hpcserve.daemon.controller.books import fleet_of
from hpcserve.daemon.controller.controller import BUSY_S, LOOK_S, Controller
from hpcserve.types import DeploymentName, PilotId, ReplicaId

P, R = PilotId("pilot-1"), ReplicaId("d-1")

STEPS = ("_carry_out", "_rollouts.note", "ownership.note", "_prune_logs")


class Busy(Controller):
    """A controller whose steps do nothing, but for one, during which something changes once."""

    def __init__(self, during: str) -> None:
        self.rounds = 0
        self.stop = asyncio.Event()
        self.served = {"d": None}  # type: ignore[dict-item]
        self.pilots = SimpleNamespace(jobs={})  # type: ignore[assignment]
        self.fleet = SimpleNamespace(step=self._count, has_unjudged=False, is_drained=False)  # type: ignore[assignment]
        self._changed = asyncio.Event()
        self._targets = SimpleNamespace(note=lambda: None)  # type: ignore[assignment]
        self._rollouts = SimpleNamespace(note=self._step("_rollouts.note", during))  # type: ignore[assignment]
        self.ownership = SimpleNamespace(note=self._step("ownership.note", during))  # type: ignore[assignment]
        self._carry_out = self._step("_carry_out", during)  # type: ignore[method-assign]
        self._prune_logs = self._step("_prune_logs", during)  # type: ignore[method-assign]

    def _count(self, now: float) -> tuple[Any, ...]:
        self.rounds += 1
        return ()

    def _step(self, name: str, during: str) -> Any:
        async def step(*_: object) -> None:
            await asyncio.sleep(0)
            if name == during and self.rounds == 1:
                self.change()

        return step

    def _look_s(self) -> float:
        return 3600.0

    def _is_waiting(self) -> bool:
        return False

    def _tell_agents(self) -> None:
        pass

    def _tell_admission(self) -> None:
        pass

    def tell_broker(self) -> None:
        pass

    def tidy(self) -> None:
        pass


@pytest.mark.parametrize("during", STEPS)
def test_a_change_during_any_step_leads_to_another_round(during: str) -> None:
    async def steered() -> int:
        controller = Busy(during)
        steering = asyncio.create_task(controller._steer())
        for _ in range(100):
            await asyncio.sleep(0)
        steering.cancel()
        return controller.rounds

    assert asyncio.run(steered()) == 2


def test_it_ends_although_something_changes_at_that_moment() -> None:
    async def ended() -> bool:
        controller = Busy("")
        steering = asyncio.create_task(controller._steer())
        for _ in range(100):
            await asyncio.sleep(0)
        controller.change()
        steering.cancel()
        await asyncio.wait({steering}, timeout=5.0)
        return steering.cancelled()

    assert asyncio.run(ended())


@pytest.mark.parametrize(
    ("kind", "phase", "reported", "replica", "busy"),
    [
        ("slurm", "queued", False, None, False),
        ("slurm", "suspended", False, None, False),
        ("slurm", "unknown", False, None, False),
        ("slurm", "running", False, None, True),
        ("slurm", "running", True, None, False),
        ("slurm", "running", True, "ready", False),
        ("slurm", "running", True, "starting", True),
        ("slurm", "running", True, "retiring", True),
        ("slurm", "running", True, "stopping", True),
        ("local", "queued", False, None, True),
        ("local", "running", True, "ready", False),
    ],
)
def test_it_looks_often_only_while_something_changes_within_moments(
    kind: str, phase: PilotPhase, replica: ReplicaState | None, *, reported: bool, busy: bool
) -> None:
    controller = object.__new__(Controller)
    controller.site = msgspec.structs.replace(load_site("local"), scheduler=Scheduler(kind=kind))
    controller.fleet = fleet_of(controller.site)
    controller.fleet.pilots[P] = FleetPilot(pilot=P, slots=1, idle_since_s=0.0, phase=phase, reported=reported)
    if replica is not None:
        controller.fleet.adopt_replica(R, DeploymentName("d"), Version("v"), P)
        controller.fleet.replicas[R].state = replica
    assert controller._look_s() == (BUSY_S if busy else LOOK_S)
