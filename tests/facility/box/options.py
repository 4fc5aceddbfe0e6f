"""What can be chosen about a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ACCOUNT = "science"
"""The user's default account."""
TINY_QOS = "tiny"
"""A QOS by which a user may have one job at a time, queued or running."""
GPU_NODES = 2
"""So many nodes, the first ones, have GPUs."""
GPUS_PER_NODE = 2
CPUS_PER_NODE = 4
MEMORY_PER_NODE_MIB = 4000
MOST_LOGINS = 9
DEBUG_LIMIT_MIN = 2
"""The longest walltime of partition ``debug``."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of one box.

    Attributes:
        nodes: How many compute nodes.
        logins: How many login nodes; Slurm's own daemons run on the first one.
        enforce: What slurmctld holds jobs to (``AccountingStorageEnforce``); "" for nothing.
        slurmd_timeout_s: A node that has not answered for so long is down.
        kill_wait_s: From SIGTERM to SIGKILL at a job's time limit.
        min_job_age_s: So long slurmctld remembers a job that has ended.
        max_jobs: So many jobs slurmctld takes, of which one array may be all but one.
        sized_mib: Directories below the box's own that are file systems of so many MiB; all nodes see them.
            ``spool`` is where each slurmd keeps its jobs' scripts.
        disks_mib: The same, but file systems that can be made to stand still: see ``Box.frozen``.
    """

    nodes: int = 4
    logins: int = 1
    enforce: str = "associations,limits,qos"
    slurmd_timeout_s: int = 5
    kill_wait_s: int = 3
    min_job_age_s: int = 300
    max_jobs: int = 10_000
    sized_mib: Mapping[str, int] = field(default_factory=dict)
    disks_mib: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not GPU_NODES <= self.nodes <= 64:
            raise ValueError(f"nodes: expected {GPU_NODES} to 64, got {self.nodes}")
        if not 1 <= self.logins <= MOST_LOGINS:
            raise ValueError(f"logins: expected 1 to {MOST_LOGINS}, got {self.logins}")
