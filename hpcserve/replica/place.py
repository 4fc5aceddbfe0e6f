"""The part of its node that a rank takes for its own: the GPUs that it sees, the processors that it computes on."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path

from hpcserve.core.affinity import Bound, bound
from hpcserve.replica.gpus import OF_CUDA, own, share, visible
from hpcserve.replica.nvml import open_nvml
from hpcserve.replica.topology import SYSFS, gpu_addresses, numa_node, processors

_GPU_FILE = re.compile(r"nvidia\d+")
_THREADS = "OMP_NUM_THREADS"


def take_place(
    environment: MutableMapping[str, str],
    *,
    mine: Sequence[int],
    slots: int,
    wanted: int,
    bind: str = "none",
    devices: Path = Path("/dev"),
    sysfs: Path = SYSFS,
) -> None:
    """Has this process, and all that it starts, use what belongs to its slots.

    Args:
        environment: The process's own; the names of GPUs in it are changed.
        mine: The slots of its node that the rank holds, from 0.
        slots: How many its node has.
        wanted: How many GPUs are to be its own; 0: what its slots have is enough.
        bind: ``numa``: it computes on processors that are near its GPUs. ``none``: on all.
        devices: Where the device files of the node are.
        sysfs: Where the kernel tells of processors.

    Raises:
        ServableError: It would not see as many GPUs of its own as it wants.
    """
    present = sum(1 for each in devices.iterdir() if _GPU_FILE.fullmatch(each.name)) if wanted else 0
    given = own(environment, mine=mine, slots=slots, wanted=wanted, present=present)
    to = _bound(environment, mine, slots, sysfs) if bind == "numa" else None
    environment.update(given)
    if to is not None:
        _bind(to)
        environment.setdefault(_THREADS, str(to.threads))


def _bound(environment: Mapping[str, str], mine: Sequence[int], slots: int, sysfs: Path) -> Bound | None:
    may_use = processors(os.sched_getaffinity(0), sysfs)
    if sum(map(bool, may_use.by_node.values())) < 2:
        return None  # everything is near
    address = _addresses(environment, sysfs)
    near = []
    for slot in range(slots):
        seen = visible({**environment, **share(environment, mine=(slot,), slots=slots)})
        near.append({node for name in seen if (node := numa_node(address(name), sysfs)) is not None})
    return bound(may_use, near, mine)


def _addresses(environment: Mapping[str, str], sysfs: Path) -> Callable[[str], str]:
    """Where a GPU is, by its name. Without a driver that knows, only if the node has no others than those named."""
    named = visible(environment)
    nvml = open_nvml() if named and OF_CUDA in environment else None
    if nvml is not None:
        return nvml.address
    found = gpu_addresses(sysfs) if named else ()
    if len(found) != len(named):
        return lambda _name: ""
    return dict(zip(named, found, strict=True)).__getitem__


def _bind(to: Bound) -> None:
    """All threads: libraries may have started some when they were imported."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), to.cpus)
