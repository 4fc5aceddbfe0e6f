"""Which pilots are too many, as a table. Those of which nothing is known go last: they cannot be cancelled now."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hpcserve.core.fleetview import Pilot, PilotPhase, Policy
from hpcserve.core.places import Places
from hpcserve.core.width import ONE
from hpcserve.types import PilotId

SLOTS = 4


@dataclass(frozen=True)
class Has:
    """One pilot: its slots, and how many replicas are in them."""

    name: str
    size: int
    used: int
    phase: PilotPhase = "running"

    @property
    def pilot(self) -> Pilot:
        is_there = self.phase != "queued"
        return Pilot(
            pilot=PilotId(self.name),
            phase=self.phase,
            slots=self.size,
            size=self.size,
            reported=is_there,
            idle_since_s=0.0,
        )


def surplus(most: int, wanted: int, *has: Has) -> set[str]:
    policy = Policy(max_pilots=most, slots=SLOTS, idle_s=100.0)
    used = {PilotId(each.name): each.used for each in has}
    return set(Places(policy, [each.pilot for each in has], used=used, wanted={ONE: wanted}, now=0.0).surplus)


@pytest.mark.parametrize(
    ("most", "wanted", "has", "expected"),
    [
        pytest.param(2, 8, [Has("a", 4, 4), Has("b", 4, 4)], set(), id="none is too many"),
        pytest.param(1, 1, [Has("a", 4, 1), Has("b", 4, 0)], {"b"}, id="the one with fewest replicas"),
        pytest.param(1, 1, [Has("a", 4, 0), Has("b", 4, 1)], {"a"}, id="the same the other way round"),
        pytest.param(1, 1, [Has("a", 4, 1), Has("b", 4, 1)], {"b"}, id="of equals the newer"),
        pytest.param(1, 1, [Has("a", 4, 0, "unknown"), Has("b", 4, 1)], {"b"}, id="the unknown last"),
        pytest.param(1, 1, [Has("a", 4, 1), Has("b", 4, 0, "unknown")], {"a"}, id="the unknown last, if newer"),
        pytest.param(
            1, 1, [Has("a", 4, 0, "unknown"), Has("b", 4, 0, "unknown"), Has("c", 4, 1)], {"c"}, id="two unknown"
        ),
        pytest.param(2, 8, [Has("a", 1, 1), Has("b", 4, 0), Has("c", 4, 0)], {"a"}, id="the small one"),
        pytest.param(
            2,
            8,
            [Has("a", 1, 1), Has("b", 4, 1), Has("c", 4, 0, "queued")],
            set(),
            id="not before a full one is there",
        ),
        pytest.param(
            2, 5, [Has("a", 1, 0, "unknown"), Has("b", 2, 2), Has("c", 4, 1)], {"b"}, id="the smallest but the unknown"
        ),
        pytest.param(1, 2, [Has("a", 1, 0, "unknown"), Has("b", 2, 0)], {"b"}, id="none but the unknown is smaller"),
    ],
)
def test_which_pilots_hand_over_and_end(most: int, wanted: int, has: list[Has], expected: set[str]) -> None:
    assert surplus(most, wanted, *has) == expected
