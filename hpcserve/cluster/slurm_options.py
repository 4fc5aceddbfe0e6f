"""The options of a pilot job in Slurm. Pure.

Source: sbatch(1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from hpcserve.cluster.script_options import directive, one_line
from hpcserve.cluster.seam import PilotJob
from hpcserve.config import Site

_LONGEST_WARNING_S = 65535
"""Source: sbatch(1), ``--signal``."""


def options(site: Site, job: PilotJob, name: str) -> Iterator[str]:
    """Those of the site's ``directives`` last: a later one overrules.

    Raises:
        ConfigError: A value cannot stand in a script.
    """
    pilots = site.pilots
    asked: dict[str, str | int] = {
        "job-name": name,
        "comment": name,
        "nodes": job.nodes or pilots.nodes,
        "ntasks-per-node": 1,
        "account": pilots.account,
        "partition": pilots.partition,
        "qos": pilots.qos,
        "constraint": pilots.constraint,
        "reservation": pilots.reservation,
        "gpus-per-node": pilots.gpus_per_node,
        "cpus-per-task": pilots.cpus_per_node,
        "mem": f"{pilots.memory_per_node_mib}M" if pilots.memory_per_node_mib else "",
        "time": walltime(job.walltime_s),
        "signal": f"B:USR1@{warning_s(site, job)}",
        "chdir": str(job.directory),
        # A % begins a pattern of Slurm's, such as %j.
        "output": str(job.log).replace("%", "%%"),
        "open-mode": "append",
    }
    for option, value in asked.items():
        if value:
            yield f"--{option}={one_line(str(value), f'--{option}')}"
    if pilots.exclusive:
        yield "--exclusive"
    yield "--requeue" if pilots.requeue else "--no-requeue"
    if (job.nodes or pilots.nodes) > 1:
        yield "--no-kill"  # the other nodes go on when one is lost
    comes_after = [*(["singleton"] if job.single else []), *(f"afterany:{each}" for each in job.after)]
    if comes_after:
        yield f"--dependency={one_line(','.join(comes_after), '--dependency')}"
    for line in pilots.directives:
        yield directive(line, "--gres=gpu:2")


def warning_s(site: Site, job: PilotJob) -> int:
    """So long before the job's end Slurm warns it: ``pilots.warn_s``, and no more than half of the walltime."""
    return max(1, math.ceil(min(site.pilots.warn_s, job.walltime_s / 2, _LONGEST_WARNING_S)))


def walltime(seconds: float) -> str:
    """``D-HH:MM:SS``, rounded up to whole seconds; Slurm rounds up to minutes."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02}:{minute:02}:{second:02}"
