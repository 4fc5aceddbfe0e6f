"""How many slots a replica takes. Pure."""

from __future__ import annotations


def slots_per_rank(gpus_per_rank: int, replicas_per_gpu: int) -> int:
    """How many slots of its node one rank takes: one, or all those of the GPUs that are its own."""
    return max(1, gpus_per_rank * replicas_per_gpu)
