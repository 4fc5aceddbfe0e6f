"""A daemon under load goes on, on another login node: all replicas and clients are back, and no request is lost."""

from __future__ import annotations

import pytest

from benchmarks import scaling_move
from tests.facility.box.cluster import Box
from tests.facility.box.options import Options

pytestmark = [pytest.mark.facility, pytest.mark.timeout(600)]

REPLICAS = 20
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def box_options() -> Options:
    return scaling_move.OPTIONS


def test_all_are_back_and_nothing_is_lost(box: Box) -> None:
    found = scaling_move.measure(box, replicas=REPLICAS, moves=1)
    assert [found[each] for each in ("lost", "ran_twice")] == [0, 0]
    for how in scaling_move.HOWS:
        (in_flight,) = found[how]["in_flight"]
        assert 0 < in_flight < found["requests"]
        assert found[how]["replicas_replaced"] == 0
        assert 0 < found[how]["up_s"]["worst"] < found[how]["back_s"]["worst"] < DEADLINE_S
    assert scaling_move.reached(found).keys() == scaling_move.targets().keys()
