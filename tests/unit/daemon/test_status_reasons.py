"""Why a deployment waits for its pilots, in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hpcserve.core.fleetbook import FleetPilot, FleetReplica
from hpcserve.core.fleetview import PilotPhase, Policy
from hpcserve.core.rollout import FleetDeployment, Version
from hpcserve.daemon.controller.view import _plan, _replica, _waits
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire.agents import ReplicaStatus
from tests.unit.core.untried import Never

SILENCE = "squeue did not answer"
POLICY = Policy(max_pilots=1, slots=4, idle_s=0.0)


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


def plan(wanted: dict[str, int], held: dict[str, int], guesses: list[float | None]) -> str:
    """The plan of deployment ``mine``, with so many pilots of four slots in the queue."""
    deployments = {
        DeploymentName(name): FleetDeployment(
            name=DeploymentName(name), version=Version("v"), replicas=count, restarts=Never()
        )
        for name, count in wanted.items()
    }
    replicas = {
        ReplicaId(f"{name}-{n}"): FleetReplica(
            replica=ReplicaId(f"{name}-{n}"), deployment=DeploymentName(name), version=Version("v"), pilot=PilotId("p")
        )
        for name, count in held.items()
        for n in range(count)
    }
    names = [PilotId(f"pilot-{n}") for n in range(len(guesses))]
    pilots = {name: FleetPilot(pilot=name, slots=4, idle_since_s=0.0) for name in names}
    pilots[PilotId("p")] = FleetPilot(pilot=PilotId("p"), slots=4, idle_since_s=0.0, phase="running")
    jobs = {name: SimpleNamespace(name="1", starts_in_s=guess) for name, guess in zip(names, guesses, strict=True)}
    controller: Any = SimpleNamespace(
        fleet=SimpleNamespace(pilots=pilots, deployments=deployments, replicas=replicas, policy=POLICY),
        pilots=SimpleNamespace(jobs=jobs),
    )
    return _plan(controller, deployments[DeploymentName("mine")], held.get("mine", 0), waiting=1)


def test_a_plan_counts_the_pilots_that_its_deployment_waits_for() -> None:
    because = "because that is what was asked for"
    assert plan({"mine": 2, "other": 1}, {"other": 1}, [None] * 3) == f"1 pilot queued, for 2 of 2 replicas, {because}"
    assert plan({"mine": 2, "other": 9}, {"other": 2}, [None] * 5) == (
        f"3 pilots queued, shared with 1 other deployment, for 2 of 2 replicas, {because}"
    )
    assert plan({"mine": 2, "other": 9}, {"mine": 2}, [None] * 3) == "2 replicas, fixed"


def test_the_start_of_a_plan_is_that_of_the_first_pilot_that_has_room() -> None:
    assert "est. start" not in plan({"mine": 1}, {}, [None])
    assert "est. start" not in plan({"mine": 1}, {}, [-5.0, 1e12]), "nobody would believe that"
    assert "est. start" in plan({"mine": 1}, {}, [None, 30.0])


@pytest.mark.parametrize(("state", "told"), [("starting", "it waits for 2 slots"), ("exited", "")])
def test_of_a_replica_that_its_agent_has_no_room_for_it_is_told_what_it_waits_for(state: str, told: str) -> None:
    replica = FleetReplica(
        replica=ReplicaId("r"), deployment=DeploymentName("mine"), version=Version("v"), pilot=PilotId("p")
    )
    said = ReplicaStatus(ReplicaId("r"), state, b"", cause="it waits for 2 slots")
    controller: Any = SimpleNamespace(
        fleet=SimpleNamespace(deployments={}, policy=POLICY),
        agents=SimpleNamespace(reports={PilotId("p"): SimpleNamespace(replicas=(said,))}),
    )
    assert _replica(controller, replica, {}).cause == told
