"""A replica for which its agent has no room is stopped, and started where there is some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcserve.core.deployments import reconcile
from hpcserve.core.fleetview import Pilot, Policy, Replica, StartReplica, StopReplica, View, Wanted
from hpcserve.core.stranded import stranded
from hpcserve.core.width import Width
from hpcserve.types import DeploymentName, PilotId, ReplicaId

HALF, BOTH = Width(1, 2), Width(2, 2)
POLICY = Policy(max_pilots=2, slots=8, idle_s=60.0, nodes=2)
A, B = (
    Pilot(pilot=PilotId(name), phase="running", slots=8, size=8, reported=True, idle_since_s=0.0) for name in ("A", "B")
)


def there(name: str, width: Width, *hosts: str) -> Replica:
    """One that runs, on hosts that are known."""
    return Replica(
        replica=ReplicaId(name),
        deployment=DeploymentName(name[0]),
        version="v",
        pilot=PilotId("A"),
        state="ready",
        width=width,
        hosts=hosts,
    )


W1 = replace(there("w1", BOTH), state="starting", waits=True)
FULL = (there("m1", HALF, "n1"), there("n1", HALF, "n1"))


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        pytest.param((W1,), set(), id="there is room: it is seated in a moment"),
        pytest.param((*FULL, W1), {"w1"}, id="there is none"),
        pytest.param((*FULL, replace(W1, waits=False)), set(), id="its agent has not said so"),
        pytest.param((FULL[0], replace(FULL[1], state="stopping"), W1), set(), id="one ends"),
        pytest.param((*FULL, replace(there("x1", HALF), state="starting"), W1), set(), id="where one is is not known"),
        pytest.param((*FULL, W1, replace(W1, replica=ReplicaId("w2"))), {"w1", "w2"}, id="two for which there is none"),
        pytest.param((FULL[0], W1, replace(W1, replica=ReplicaId("w2"))), {"w2"}, id="two, of which one has room"),
    ],
)
def test_who_waits_for_nothing(replicas: tuple[Replica, ...], expected: set[str]) -> None:
    assert stranded([A], replicas, POLICY.node_slots) == expected
    assert stranded([], replicas, POLICY.node_slots) == set()


def test_it_is_placed_anew_where_there_is_room_and_waits_there() -> None:
    wanted = tuple(
        Wanted(name=DeploymentName(name), version="v", replicas=1, width=width)
        for name, width in (("m", HALF), ("n", HALF), ("w", BOTH))
    )
    view = View(policy=POLICY, wanted=wanted, pilots=(A, B), replicas=(*FULL, W1), seed="s", next_number=7)
    start = StartReplica(ReplicaId("w-s7"), DeploymentName("w"), "v", PilotId("B"))
    assert reconcile(view, 0.0) == (StopReplica(ReplicaId("w1")), start)
    stopping = replace(W1, state="stopping")
    begun = replace(W1, replica=start.replica, pilot=start.pilot, waits=False)
    assert reconcile(replace(view, replicas=(*FULL, stopping, begun)), 0.0) == ()
