"""What an agent remembers of replicas: as much as it needs to start none of them twice."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hpcserve.cluster.launchers import ProcessLauncher
from hpcserve.errors import ManifestError
from hpcserve.pilot.children import Surroundings
from hpcserve.pilot.command import Command
from hpcserve.pilot.memory import MemoryWatch
from hpcserve.pilot.ranks import Place
from hpcserve.pilot.roster import MOST_OVER, Roster
from hpcserve.pilot.stages import Stages
from hpcserve.pilot.watch import Watch
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire.agents import Orders, ReplicaSpec
from hpcserve.wire.launch import ContainerRules, MpiRules, StagingRules

R1 = ReplicaId("r1")
MANIFEST = '{"name": "m", "loader": "python"}'
SPEC = ReplicaSpec(R1, DeploymentName("d"), "v1", "/", MANIFEST, 10.0, 1000)


def no_command(spec: ReplicaSpec, place: Place, staged: str) -> Command:  # noqa: ARG001 (it has none)
    raise ManifestError(f"there is no interpreter on {place.nodes} for {spec.manifest}")


def orders(*specs: ReplicaSpec, forget: tuple[ReplicaId, ...] = (), lost: tuple[str, ...] = ()) -> Orders:
    return Orders(PilotId("p"), "one", specs, forget=forget, lost_nodes=lost)


def made(tmp_path: Path, *nodes: str) -> Roster:
    watch, launcher = Watch(), ProcessLauncher(MpiRules())
    images = Stages(
        ContainerRules(),
        pilot="p",
        launcher=launcher,
        own=nodes[0],
        watch=watch,
        clock=time.monotonic,
        changed=lambda: None,
        environment={},
    )
    return Roster(
        Surroundings(
            watch=watch,
            command=no_command,
            images=images,
            record=tmp_path / "record",
            log_dir=tmp_path,
            log_bytes=1000,
            slots=2,
            replicas_per_gpu=1,
            stop_grace_s=1.0,
            launcher=launcher,
            memory=MemoryWatch(None),
            changed=lambda: None,
            clock=time.monotonic,
            staging=StagingRules(),
        ),
        nodes,
    )


def test_what_is_forgotten_but_listed_is_not_started_again(tmp_path: Path) -> None:
    roster = made(tmp_path, "here")
    roster.obey(orders(SPEC), 0.0)
    assert [status.state for status in roster.statuses] == ["failed"]
    roster.obey(orders(SPEC, forget=(R1,)), 0.0)
    (status,) = roster.statuses
    assert (status.state, status.cause) == ("exited", "it ended earlier, and was forgotten")


def test_what_is_long_over_takes_no_memory(tmp_path: Path) -> None:
    roster = made(tmp_path, "here")
    for number in range(2 * MOST_OVER):
        replica = ReplicaId(f"r{number}")
        roster.obey(orders(msgspec.structs.replace(SPEC, replica=replica)), 0.0)
        roster.obey(orders(forget=(replica,)), 0.0)
    assert roster.statuses == ()
    assert sum(len(value) for value in vars(roster).values() if isinstance(value, set | dict)) == MOST_OVER


def test_where_every_node_is_lost_nothing_is_started(tmp_path: Path) -> None:
    roster = made(tmp_path, "a", "b")
    roster.obey(orders(lost=("b", "elsewhere")), 0.0)
    # What the daemon said of a node is not told to the next one as the agent's own word.
    assert (roster.usable_nodes, roster.lost_nodes) == (("a",), ())
    roster.obey(orders(), 0.0)
    assert (roster.usable_nodes, roster.lost_nodes) == (("a", "b"), ()), "the daemon takes it back"
    roster.obey(orders(SPEC, lost=("a", "b")), 0.0)
    (status,) = roster.statuses
    assert (status.state, status.kind, roster.usable_nodes) == ("failed", "node failed", ())


def several(size: int, nodes: int, name: str = "r1") -> ReplicaSpec:
    manifest = json.dumps({"name": "m", "loader": "python", "ranks": {"size": size, "nodes": nodes}})
    return msgspec.structs.replace(SPEC, replica=ReplicaId(name), manifest=manifest)


def test_what_can_never_fit_fails_and_says_why(tmp_path: Path) -> None:
    roster = made(tmp_path, "a", "b")
    roster.obey(orders(several(6, 2)), 0.0)
    (status,) = roster.statuses
    assert (status.state, status.kind) == ("failed", "crashed")
    assert "it takes 3 slots on each of 2 nodes, and this pilot has 2 nodes of 2 slots: lower [ranks]" in status.cause


def test_what_a_lost_node_has_no_room_for_is_no_fault_of_its_own(tmp_path: Path) -> None:
    roster = made(tmp_path, "a", "b")
    roster.obey(orders(several(4, 2), lost=("b",)), 0.0)
    (status,) = roster.statuses
    assert (status.state, status.kind) == ("failed", "node failed")
    assert status.cause == "it cannot be started: it takes 2 slots on each of 2 nodes, and its pilot has 1 left"


@pytest.mark.parametrize(
    ("named", "lost"),
    [((), ("b",)), (("b.cluster.org",), ("b",)), (("licenses",), ())],
    ids=["nobody", "by its domain too", "a host of the servable's own"],
)
def test_of_a_group_s_nodes_that_one_is_lost_that_its_launcher_names(
    tmp_path: Path, named: tuple[str, ...], lost: tuple[str, ...]
) -> None:
    roster = made(tmp_path, "a", "b")
    child: Any = SimpleNamespace(place=Place(("a", "b"), ((0,), (0,))), lost_nodes=named)
    roster._mark_lost(child)
    assert roster.lost_nodes == lost
