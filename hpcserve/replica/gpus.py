"""Which of its node's GPUs a replica sees. Pure.

Slurm names the GPUs of a job in variables, the same for all its processes, and libraries take the first one that they
see. So each slot is given an equal share of what is named, the slots in their order. Where there are more slots than
GPUs, or one would get more than another, all see all. What is not named is not divided.

Each replica does it for itself, since only a process of the job step on its node knows what Slurm named there.

Source: gres.conf(5), Flags, for the variables of Slurm; the guides to HIP and CUDA for what they mean together.
"""

from __future__ import annotations

from collections.abc import Mapping

# Ids, UUIDs, or parts of a GPU. HIP heeds the first two (and the third, say some), OpenCL on AMD the third, Intel's
# Level Zero the fourth.
_OF_HIP = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_OF_OPENCL = "GPU_DEVICE_ORDINAL"
_OF_INTEL = "ZE_AFFINITY_MASK"
# What AMD's driver leaves to all of its libraries, whose own variables then choose among that by place.
_OF_DRIVER = "ROCR_VISIBLE_DEVICES"
_NONE = frozenset({"", "-1", "NoDevFiles"})


def share(environment: Mapping[str, str], *, slot: int, slots: int) -> dict[str, str]:
    """What the variables of GPUs are to be for one replica; those that stay as they are, are left out.

    Args:
        environment: The replica's own, from Slurm.
        slot: The replica's, from 0. Where it is none of ``slots``, it shares that of another.
        slots: How many its node has.
    """
    by_library = any(name in environment for name in _OF_HIP)
    named = (*_OF_HIP, _OF_OPENCL, _OF_INTEL) if by_library else (_OF_DRIVER, _OF_OPENCL, _OF_INTEL)
    shares = {
        name: part
        for name in named
        if name in environment and (part := _part(environment[name].split(","), slot % slots, slots))
    }
    if _OF_DRIVER in shares and _OF_OPENCL in environment:
        shares[_OF_OPENCL] = [str(place) for place in range(len(shares[_OF_DRIVER]))]
    return {name: ",".join(devices) for name, devices in shares.items()}


def _part(devices: list[str], slot: int, slots: int) -> list[str]:
    """Nothing where they cannot be divided."""
    size, rest = divmod(len(devices), slots)
    if slots == 1 or rest or not _NONE.isdisjoint(devices):
        return []
    return devices[slot * size : (slot + 1) * size]
