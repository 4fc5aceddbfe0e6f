"""The controller's loop: what changes while it is busy is not forgotten."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hpcserve.daemon.controller.controller import Controller

STEPS = ("_carry_out", "_rollouts.note", "_prune_logs")


class Busy(Controller):
    """A controller whose steps do nothing, but for one, during which something changes once."""

    def __init__(self, during: str) -> None:
        self.rounds = 0
        self.stop = asyncio.Event()
        self.served = {"d": None}  # type: ignore[dict-item]
        self.pilots = SimpleNamespace(jobs={})  # type: ignore[assignment]
        self.fleet = SimpleNamespace(step=self._count, has_unjudged=False)  # type: ignore[assignment]
        self._changed = asyncio.Event()
        self._rollouts = SimpleNamespace(note=self._step("_rollouts.note", during))  # type: ignore[assignment]
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

    def _poll_s(self) -> float:
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
