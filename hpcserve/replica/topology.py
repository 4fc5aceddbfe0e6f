"""What the kernel says of a node's processors and of where its GPUs are, in sysfs.

Source: the kernel's Documentation/ABI/stable/sysfs-devices-node, testing/sysfs-bus-pci (``numa_node``) and
stable/sysfs-devices-system-cpu (``thread_siblings_list``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from hpcserve.core.affinity import Cpus, Processors

SYSFS = Path("/sys")
_NODE = re.compile(r"node(\d+)")
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def processors(allowed: Collection[int], root: Path = SYSFS) -> Processors:
    """Those of ``allowed``; without a NUMA node where the kernel tells of none."""
    by_node, siblings = {}, {}
    for place in root.glob("devices/system/node/node*"):
        number = _NODE.fullmatch(place.name)
        if number is not None:
            by_node[int(number[1])] = _cpus(_text(place / "cpulist")) & frozenset(allowed)
    for cpu in allowed:
        listed = _cpus(_text(root / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
        if listed:
            siblings[cpu] = listed
    return Processors(by_node, siblings)


def numa_node(address: str, root: Path = SYSFS) -> int | None:
    """Of the device at this address of the PCI bus; None where the kernel does not know."""
    told = _text(root / "bus/pci/devices" / address / "numa_node") if address else ""
    return int(told) if told.isdecimal() else None  # -1: it belongs to none


def gpu_addresses(root: Path = SYSFS) -> Sequence[str]:
    """Where GPUs are on the PCI bus, in its order: all that the kernel's drivers for graphics know."""
    places = {(each / "device").resolve().name for each in root.glob("class/drm/renderD*")}
    return sorted(place for place in places if _PCI.fullmatch(place))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # sysfs differs from kernel to kernel, and a container may see none


def _cpus(listed: str) -> Cpus:
    """``0-3,8`` as a set."""
    ranges = (part.partition("-") for part in listed.split(",") if part)
    return frozenset(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))
