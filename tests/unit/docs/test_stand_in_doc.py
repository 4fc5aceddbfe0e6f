"""docs/how-to/try-globus-on-a-laptop.md names the orders that the stand-in takes, and the troubles of collections."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from hpcserve.testing.globus.collections import Collections, Trouble
from hpcserve.testing.globus.faults import Faults
from hpcserve.testing.globus.movers import CopyMover
from hpcserve.testing.globus.steering import Steering
from hpcserve.testing.globus.transfer import Transfer
from hpcserve.testing.globus.transfer_orders import transfer_orders
from hpcserve.testing.globus.world import World

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "try-globus-on-a-laptop.md"


def named_in(section: str) -> set[str]:
    """What the first column of a section's table names."""
    [text] = re.findall(rf"^## {section}\n(.+?)^## ", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_the_page_names_the_troubles() -> None:
    assert named_in("Move files") == {field.name for field in fields(Trouble)}


def test_the_page_names_the_orders(tmp_path: Path) -> None:
    world = World()
    collections = Collections(world, tmp_path)
    queue = Transfer(world, collections, CopyMover()).queue
    assert named_in("Have things go wrong") == set(
        Steering(world, Faults(), transfer_orders(world, collections, queue)).orders
    )
