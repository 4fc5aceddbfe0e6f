"""What stands in the log of a replica whose agent could not write there why it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.core.losses import Loss
from hpcserve.daemon.controller.losses import Losses
from hpcserve.types import DeploymentName, PilotId, ReplicaId


@pytest.mark.parametrize(("drained", "became"), [(False, "was lost"), (True, "has drained")])
def test_it_says_whether_the_replica_had_finished_what_it_ran(tmp_path: Path, *, drained: bool, became: str) -> None:
    losses = Losses(tmp_path)
    losses.note(
        Loss(
            replica=ReplicaId("d-1"),
            deployment=DeploymentName("d"),
            pilot=PilotId("p"),
            kind="cancelled",
            cause="by somebody",
            drained=drained,
        ),
        "",
    )
    assert (tmp_path / "d-1.log").read_text() == f"[this replica {became}: cancelled: by somebody]\n"
    assert [each.drained for each in losses.views] == [drained]
