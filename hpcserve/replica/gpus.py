"""Which of its node's GPUs a rank sees. Pure.

Slurm names the GPUs of a job in variables, the same for all its processes, and libraries take the first one that they
see. So the slots of a node, in their order, are given equal parts of what is named: several GPUs each where there are
more GPUs than slots, and one for several slots together where there are more slots. Where neither number is a multiple
of the other, all see all. Names are opaque: numbers, UUIDs of GPUs and of parts of them. A rank that holds several
slots sees the GPUs of all.

What is not named is not divided, unless a servable asks for GPUs of its own: then those of NVIDIA that are there count
as named by their numbers.

Each rank does it for itself, since only a process of the job step on its node knows what Slurm named there.

Source: gres.conf(5), Flags, for the variables of Slurm; the guides to HIP and CUDA for what they mean together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpcserve.errors import ServableError

OF_CUDA = "CUDA_VISIBLE_DEVICES"
# Ids, UUIDs, or parts of a GPU. HIP heeds the first two (and the third, say some), OpenCL on AMD the third, Intel's
# Level Zero the fourth.
_OF_HIP = (OF_CUDA, "HIP_VISIBLE_DEVICES")
_OF_OPENCL = "GPU_DEVICE_ORDINAL"
_OF_INTEL = "ZE_AFFINITY_MASK"
# What AMD's driver leaves to all of its libraries, whose own variables then choose among that by place.
_OF_DRIVER = "ROCR_VISIBLE_DEVICES"
_NONE = frozenset({"", "-1", "NoDevFiles"})

NAMED_IN = (*_OF_HIP, _OF_DRIVER, _OF_INTEL)
"""The variables that name GPUs, the one that most libraries heed first."""


def share(environment: Mapping[str, str], *, mine: Sequence[int], slots: int) -> dict[str, str]:
    """What the variables of GPUs are to be for one rank; those that stay as they are, are left out.

    Args:
        environment: The rank's own, from Slurm.
        mine: The slots that it holds, from 0. One that is none of ``slots`` shares that of another.
        slots: How many its node has.
    """
    by_library = any(name in environment for name in _OF_HIP)
    named = (*_OF_HIP, _OF_OPENCL, _OF_INTEL) if by_library else (_OF_DRIVER, _OF_OPENCL, _OF_INTEL)
    held = sorted({slot % slots for slot in mine})
    shares = {
        name: part
        for name in named
        if name in environment and (part := _part(environment[name].split(","), held, slots))
    }
    if _OF_DRIVER in shares and _OF_OPENCL in environment:
        shares[_OF_OPENCL] = [str(place) for place in range(len(shares[_OF_DRIVER]))]
    return {name: ",".join(devices) for name, devices in shares.items()}


def own(
    environment: Mapping[str, str], *, mine: Sequence[int], slots: int, wanted: int, present: int = 0
) -> dict[str, str]:
    """:func:`share`, for a rank that may want GPUs of its own.

    Args:
        environment: The rank's own, from Slurm.
        mine: The slots that it holds, from 0.
        slots: How many its node has.
        wanted: How many; 0: what its slots have is enough.
        present: How many GPUs of NVIDIA its node has, named or not.

    Raises:
        ServableError: It would see fewer or more, or one that another slot sees too.
    """
    unnamed = not any(name in environment for name in NAMED_IN)
    numbered = {OF_CUDA: ",".join(map(str, range(present)))} if wanted and unnamed and present else {}
    given = numbered | share({**environment, **numbered}, mine=mine, slots=slots)
    seen = visible({**environment, **given})
    if not wanted:
        return given
    others = set(range(slots)) - {slot % slots for slot in mine}
    named = {**environment, **numbered}
    shared = [slot for slot in sorted(others) if not set(seen).isdisjoint(_seen(named, slot, slots))]
    if len(seen) != wanted or shared:
        names = visible(named)
        also = f", which {_slots(shared)} would have too" if shared else ""
        has = f"its {_slots(mine)} of {slots} would give it {len(seen)} of {len(names)}{also}"
        raise ServableError(_not_its_own(wanted, names, has))
    return given


def visible(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that are named, as libraries count them: up to the first that is none."""
    names = next((environment[name].split(",") for name in NAMED_IN if name in environment), [])
    end = next((place for place, name in enumerate(names) if name.strip() in _NONE), len(names))
    return names[:end]


def _seen(environment: Mapping[str, str], slot: int, slots: int) -> list[str]:
    return visible({**environment, **share(environment, mine=(slot,), slots=slots)})


def _part(devices: list[str], held: Sequence[int], slots: int) -> list[str]:
    """The devices of these slots; nothing where they cannot be divided, or are all."""
    size, rest = divmod(len(devices), slots)
    sharing, left = divmod(slots, len(devices))
    if (rest and left) or not _NONE.isdisjoint(devices):
        return []
    places = {slot * size + each for slot in held for each in range(size)} or {slot // sharing for slot in held}
    return [] if len(places) == len(devices) else [devices[place] for place in sorted(places)]


def _not_its_own(wanted: int, named: Sequence[str], has: str) -> str:
    told = f"ranks.gpus_per_rank: each rank of this servable is to have {_gpus(wanted)}"
    if not named:
        return (
            f"{told}, and none is there: set pilots.gpus_per_node in the site file; where the scheduler names no GPUs, "
            f"let pilots.setup name them, by 'export {NAMED_IN[0]}=0,1' or as the GPU's maker says"
        )
    return (
        f"{told}, and {has}: set pilots.slots in the site file to the number of a node's GPUs times "
        "pilots.replicas_per_gpu; where it is that, this node has not as many GPUs as others"
    )


def _slots(slots: Sequence[int]) -> str:
    return f"slot{'' if len(slots) == 1 else 's'} {', '.join(map(str, slots))}"


def _gpus(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"
