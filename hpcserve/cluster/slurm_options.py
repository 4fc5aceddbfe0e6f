"""The options of a pilot job in Slurm. Pure.

Source: sbatch(1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from hpcserve.cluster.script_options import asked, directive, not_for_directives, one_line
from hpcserve.cluster.seam import PilotJob
from hpcserve.config import Pilots, Site

_LONGEST_WARNING_S = 65535
"""Source: sbatch(1), ``--signal``."""

_FLAGS = "HIOQVWXbhksv"
_BY_NAME = "by which hpcserve finds a pilot's job again; remove it"
_FOR_THE_LOG = "since `hpcserve logs` shows the log of a pilot where hpcserve has it written; remove it"
_LASTS = "since agents are told how long their jobs last; set pilots.walltime_s"
_NOT = {
    "job-name": ("J", _BY_NAME),
    "array": ("a", "which makes a job array, and a pilot is one job; remove it, and set pilots.max_pilots"),
    "output": ("o", _FOR_THE_LOG),
    "error": ("e", _FOR_THE_LOG),
    "time": ("t", _LASTS),
    "time-min": ("", _LASTS),
    "wait": ("W", "with which sbatch does not answer before the job has ended; remove it"),
    "test-only": ("", "with which nothing is submitted; remove it"),
}
"""Long options that stand in no directive, with their letters and why."""


def options(site: Site, job: PilotJob, name: str) -> Iterator[str]:
    """Those of the site's ``directives`` last: a later one overrules.

    Raises:
        ConfigError: A value cannot stand in a script, or an option may not be the site's.
    """
    pilots = site.pilots
    _check(pilots)
    wanted: dict[str, str | int] = {
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
    for option, value in wanted.items():
        if value:
            yield f"--{option}={one_line(str(value), f'--{option}')}"
    if pilots.exclusive:
        yield "--exclusive"
    yield "--requeue" if pilots.requeue else "--no-requeue"
    if (job.nodes or pilots.nodes) > 1:
        yield "--no-kill"  # the other nodes go on when one is lost
    if job.single:
        yield "--dependency=singleton"
    for line in pilots.directives:
        yield directive(line, "--gres=gpu:2")


def _check(pilots: Pilots) -> None:
    for line in pilots.directives:
        for name, _ in asked(line, _FLAGS):
            for long, (letter, why) in _NOT.items():
                # sbatch takes a long option by its beginning, too.
                if name == letter or (len(name) > 1 and long.startswith(name)):
                    raise not_for_directives(f"-{letter}, --{long}" if letter else f"--{long}", why)


def warning_s(site: Site, job: PilotJob) -> int:
    """So long before the job's end Slurm warns it: ``pilots.warn_s``, and no more than half of the walltime."""
    return max(1, math.ceil(min(site.pilots.warn_s, job.walltime_s / 2, _LONGEST_WARNING_S)))


def walltime(seconds: float) -> str:
    """``D-HH:MM:SS``, rounded up to whole seconds; Slurm rounds up to minutes."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02}:{minute:02}:{second:02}"
