"""What an agent remembers of replicas: as much as it needs to start none of them twice."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from hpcserve.errors import ManifestError
from hpcserve.pilot.children import Surroundings
from hpcserve.pilot.command import Command
from hpcserve.pilot.roster import MOST_OVER, Roster
from hpcserve.pilot.watch import Watch
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire.messages import Orders, ReplicaSpec

R1 = ReplicaId("r1")
SPEC = ReplicaSpec(R1, DeploymentName("d"), "v1", "/", "{}", 10.0, 1000)


def no_command(manifest: str) -> Command:
    raise ManifestError(f"there is no interpreter for {manifest}")


def orders(*specs: ReplicaSpec, forget: tuple[ReplicaId, ...] = ()) -> Orders:
    return Orders(PilotId("p"), "one", specs, forget=forget)


def made(tmp_path: Path) -> Roster:
    return Roster(
        Surroundings(
            watch=Watch(),
            command=no_command,
            record=tmp_path / "record",
            log_dir=tmp_path,
            log_bytes=1000,
            stop_grace_s=1.0,
            changed=lambda: None,
            clock=time.monotonic,
        )
    )


def test_what_is_forgotten_but_listed_is_not_started_again(tmp_path: Path) -> None:
    roster = made(tmp_path)
    roster.obey(orders(SPEC), 0.0)
    assert [status.state for status in roster.statuses] == ["failed"]
    roster.obey(orders(SPEC, forget=(R1,)), 0.0)
    (status,) = roster.statuses
    assert (status.state, status.cause) == ("exited", "it ended earlier, and was forgotten")


def test_what_is_long_over_takes_no_memory(tmp_path: Path) -> None:
    roster = made(tmp_path)
    for number in range(2 * MOST_OVER):
        replica = ReplicaId(f"r{number}")
        roster.obey(orders(msgspec.structs.replace(SPEC, replica=replica)), 0.0)
        roster.obey(orders(forget=(replica,)), 0.0)
    assert roster.statuses == ()
    assert sum(len(value) for value in vars(roster).values() if isinstance(value, set | dict)) == MOST_OVER
