"""Why a deployment waits for its pilots, in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hpcserve.core.deployments import PilotPhase
from hpcserve.core.fleetbook import FleetPilot
from hpcserve.daemon.controller.view import _waits
from hpcserve.types import PilotId

SILENCE = "squeue did not answer"


def test_what_holds_for_several_pilots_is_told_once() -> None:
    told: tuple[tuple[PilotPhase, str], ...] = (
        ("unknown", SILENCE),
        ("queued", "Priority"),
        ("unknown", SILENCE),
        ("leaving", SILENCE),
        ("running", ""),
    )
    pilots = {
        name: FleetPilot(pilot=name, slots=1, idle_since_s=0.0, phase=phase, waits_for=waits_for)
        for name, (phase, waits_for) in zip(map(PilotId, map("pilot-{}".format, range(5))), told, strict=True)
    }
    jobs = {PilotId("pilot-1"): SimpleNamespace(starts_in_s=120.0)}
    controller: Any = SimpleNamespace(fleet=SimpleNamespace(pilots=pilots), pilots=SimpleNamespace(jobs=jobs))
    assert _waits(controller) == (
        f"pilot-0, pilot-2 are unknown: {SILENCE}; pilot-1 is queued: Priority (expected to start in 2 min 0 s)"
    )
