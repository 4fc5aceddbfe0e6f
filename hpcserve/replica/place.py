"""The part of its node that a rank takes for its own: which GPUs it sees."""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from hpcserve.replica.gpus import own

_GPU_FILE = re.compile(r"nvidia\d+")


def take_place(
    environment: MutableMapping[str, str], *, mine: Sequence[int], slots: int, wanted: int, devices: Path = Path("/dev")
) -> None:
    """Has this process, and all that it starts, use what belongs to its slots.

    Args:
        environment: The process's own; the names of GPUs in it are changed.
        mine: The slots of its node that the rank holds, from 0.
        slots: How many its node has.
        wanted: How many GPUs are to be its own; 0: what its slots have is enough.
        devices: Where the device files of the node are.

    Raises:
        ServableError: It would see fewer.
    """
    present = sum(1 for each in devices.iterdir() if _GPU_FILE.fullmatch(each.name)) if wanted else 0
    environment.update(own(environment, mine=mine, slots=slots, wanted=wanted, present=present))
