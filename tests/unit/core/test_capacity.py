"""Why a deployment lacks replicas: it asks for more than the site has room for, or others hold the room."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcserve.core.capacity import lack_of_room, limit_in_words, most_replicas
from hpcserve.core.fleetbook import FleetReplica
from hpcserve.core.fleetview import Policy
from hpcserve.core.rollout import FleetDeployment, Version
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from tests.unit.core.untried import Never

POLICY = Policy(max_pilots=4, slots=16, idle_s=60.0)
LIMIT = "at most 64 replicas fit into this site: pilots.max_pilots 4 × pilots.slots 16"
V = Version("v")


def lack(wanted: dict[str, int], held: dict[str, int], *, failed: str = "") -> str:
    """Why deployment ``mine`` lacks replicas, where so many are wanted of each and so many there."""
    deployments = {
        name: FleetDeployment(name=DeploymentName(name), version=V, replicas=count, restarts=Never())
        for name, count in wanted.items()
    }
    if failed:
        deployments[failed].fail("it broke", "", pilots_ended=False)
    replicas = [
        FleetReplica(replica=ReplicaId(f"{name}-{n}"), deployment=DeploymentName(name), version=V, pilot=PilotId("p"))
        for name, count in held.items()
        for n in range(count)
    ]
    return lack_of_room(POLICY, deployments["mine"], deployments.values(), replicas)


def test_the_limit_names_the_settings_that_it_comes_from() -> None:
    assert limit_in_words(POLICY) == LIMIT


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ({"mine": 1}, {}),  # its pilot is on its way
        ({"mine": 64}, {"mine": 16}),
        ({"mine": 60, "other": 4}, {"mine": 59, "other": 4}),
        ({"mine": 60, "other": 5}, {"mine": 60, "other": 4}),  # it is the other that lacks one
        ({"mine": 60, "other": 5}, {"mine": 3, "other": 3}),  # there is room
        ({"mine": 1}, {"gone": 64}),  # which end
    ],
)
def test_nothing_lacks_where_there_is_room_or_will_be(wanted: dict[str, int], held: dict[str, int]) -> None:
    assert lack(wanted, held) == ""


def test_a_queue_in_which_fewer_may_run_is_the_limit() -> None:
    policy = replace(POLICY, max_running=1)
    assert most_replicas(policy) == 16
    assert limit_in_words(policy) == (
        "at most 16 replicas fit into this site: max_running 1 of the queue × pilots.slots 16"
    )
    assert limit_in_words(replace(POLICY, max_running=9)) == LIMIT


def test_the_slots_are_those_of_a_node() -> None:
    assert limit_in_words(replace(POLICY, nodes=2)) == (
        "at most 64 replicas fit into this site: pilots.max_pilots 4 × pilots.nodes 2 × pilots.slots 8"
    )


def test_a_queue_that_lets_none_run_has_room_for_none() -> None:
    assert most_replicas(replace(POLICY, max_running=0)) == 0


def test_what_can_never_fit_says_so_at_once() -> None:
    assert lack({"mine": 65}, {}) == f"{LIMIT}; deploy it with fewer replicas"


def test_others_that_hold_the_room_are_named() -> None:
    assert lack({"mine": 2, "other": 63, "little": 1}, {"other": 62, "mine": 1, "little": 1}) == (
        f"{LIMIT}, and other has 62, little has 1; undeploy one, or deploy with fewer replicas"
    )


def test_of_many_others_some_are_named() -> None:
    counts = {f"d{n}": 8 for n in range(8)}
    assert "d3 has 8, …; undeploy" in lack({"mine": 1, **counts}, counts)


def test_a_deployment_that_failed_wants_no_room() -> None:
    assert lack({"mine": 2, "other": 63}, {"mine": 1, "other": 63}, failed="other") == ""
    assert lack({"mine": 65}, {}, failed="mine") == ""
