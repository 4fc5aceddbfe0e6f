"""The options of a pilot job in OpenPBS and PBS Pro. Pure.

A node is one chunk, and no two chunks of a job share one (``place=scatter``). PBS has no QOS, and its reservations are
queues. PBS hands over what a job prints when it ends, if it can; so the script itself writes to the pilot's log, and
what PBS and the shell before it say goes to a file beside that. A walltime may have more than 24 hours.

Source: qsub(1B) and pbs_resources(7B) of OpenPBS 23.06; the options ``-N``, ``-q``, ``-l select`` and ``-l walltime``
were seen to be taken by a server of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from hpcserve.cluster.script_options import directive, one_line
from hpcserve.cluster.seam import PilotJob, own_log
from hpcserve.config import Pilots, Site
from hpcserve.errors import ConfigError


def options(site: Site, job: PilotJob, name: str) -> Iterator[str]:
    """Those of the site's ``directives`` last.

    Raises:
        ConfigError: A value cannot stand in a script, or asks for what PBS does not have.
    """
    pilots = site.pilots
    _check(pilots)
    if ":" in str(job.log):
        raise ConfigError(
            f"-o of the job script: expected a path without ':', which would end a host's name, got {str(job.log)!r}; "
            "set shared_dir to another place"
        )
    asked = {
        "-N ": name,
        "-A ": pilots.account,
        "-q ": pilots.reservation or pilots.partition,
        "-l select=": f"{job.nodes or pilots.nodes}{_chunk(pilots)}",
        "-l place=": "scatter:excl" if pilots.exclusive else "scatter",
        "-l walltime=": walltime(job.walltime_s),
        "-o ": str(own_log(job.log)),
    }
    for option, value in asked.items():
        if value:
            yield f"{option}{one_line(value, option.strip(' ='))}"
    yield "-j oe"
    yield "-r y" if pilots.requeue else "-r n"
    if job.after:
        yield f"-W depend={one_line(':'.join(('afterany', *job.after)), '-W depend')}"
    for line in pilots.directives:
        yield directive(line, "-l filesystems=home")


def walltime(seconds: float) -> str:
    """``HH:MM:SS``, rounded up to whole seconds."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}"


def _chunk(pilots: Pilots) -> str:
    """What each node is to have; ``pilots.constraint`` are further resources of a chunk, such as ``system=polaris``."""
    wanted = {
        "ncpus": pilots.cpus_per_node or "",
        "ngpus": pilots.gpus_per_node or "",
        "mem": f"{pilots.memory_per_node_mib}mb" if pilots.memory_per_node_mib else "",
    }
    listed = [f"{resource}={value}" for resource, value in wanted.items() if value]
    return "".join(f":{each}" for each in (*listed, *([pilots.constraint] if pilots.constraint else [])))


def _check(pilots: Pilots) -> None:
    if pilots.qos:
        raise ConfigError(f"pilots.qos: expected none, since PBS has queues alone, got {pilots.qos!r}; leave it empty")
    if pilots.reservation and pilots.partition:
        raise ConfigError(
            f"pilots.reservation: a reservation of PBS is a queue, and pilots.partition names one, "
            f"{pilots.partition!r}; leave one of them empty"
        )
    if pilots.launcher == "srun":
        raise ConfigError("pilots.launcher: expected 'mpiexec' or 'process', got 'srun', which is Slurm's")
