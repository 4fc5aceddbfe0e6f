"""docs/how-to/try-globus-on-a-laptop.md names the orders that the stand-in takes."""

from __future__ import annotations

import re
from pathlib import Path

from hpcserve.testing.globus.faults import Faults
from hpcserve.testing.globus.steering import Steering
from hpcserve.testing.globus.world import World

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "try-globus-on-a-laptop.md"


def test_the_page_names_the_orders() -> None:
    rows = re.findall(r"^\| (`.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {order for row in rows for order in re.findall(r"`([^`]+)`", row)}
    assert named == set(Steering(World(), Faults()).orders)
