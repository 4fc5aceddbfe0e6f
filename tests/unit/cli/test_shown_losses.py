"""``hpcserve status`` tells the replicas that were lost from those that had finished what they ran."""

from __future__ import annotations

import time

from hpcserve.cli.status import drawn
from hpcserve.wire.admin import LossView
from tests.unit.cli.blank_status import blank


def loss(replica: str, *, drained: bool) -> LossView:
    return LossView(
        replica=replica,
        deployment="d",
        pilot="p",
        kind="cancelled",
        cause="terminated by somebody\nmore",
        at_s=time.time(),
        drained=drained,
    )


def lines(*losses: LossView) -> list[str]:
    status = blank(losses=losses)
    said = "\n".join(str(each) for each in drawn(status)).splitlines()
    return said[said.index("lost replicas") if "lost replicas" in said else said.index("drained replicas") :]


def test_what_had_drained_is_not_called_lost() -> None:
    assert lines(loss("d-1", drained=False), loss("d-2", drained=True), loss("d-3", drained=False)) == [
        "lost replicas",
        "d-1, 0 s ago: cancelled: terminated by somebody",
        "d-3, 0 s ago: cancelled: terminated by somebody",
        "",
        "drained replicas",
        "d-2, 0 s ago: cancelled: terminated by somebody",
    ]
    assert lines(loss("d-2", drained=True))[0] == "drained replicas"
