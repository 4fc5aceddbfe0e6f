"""The options of a pilot job in OpenPBS and PBS Pro. Pure.

A node is one chunk, and no two chunks of a job share one (``place=scatter``). PBS has no QOS, and its reservations are
queues. PBS hands over what a job prints when it ends, if it can; so the script itself writes to the pilot's log, and
what PBS and the shell before it say goes to a file beside that. A walltime may have more than 24 hours. What leads the
job is a shell of hpcserve's (:mod:`hpcserve.cluster.pbs_shell`), unless the site has a ``-S`` of its own.

Source: qsub(1B) and pbs_resources(7B) of OpenPBS 23.06; the options ``-N``, ``-q``, ``-l select`` and ``-l walltime``
were seen to be taken by a server of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator

from hpcserve.cluster import pbs_shell
from hpcserve.cluster.script_options import directive, one_line
from hpcserve.cluster.seam import JobId, PilotJob, own_log
from hpcserve.config import Pilots, Site
from hpcserve.errors import ConfigError

_SHELL = re.compile(r"(?:^|\s)-S")
_ARRAY = re.compile(r"(?:^|\s)-J")


def options(site: Site, job: PilotJob, name: str, after: Collection[JobId] = ()) -> Iterator[str]:
    """Those of the site's ``directives`` last. The job begins when those that it comes ``after`` have ended.

    Raises:
        ConfigError: A value cannot stand in a script, or asks for what PBS does not have.
    """
    pilots = site.pilots
    _check(pilots)
    has_shell = any(_SHELL.search(line) for line in pilots.directives)
    shell = "" if has_shell else str(pbs_shell.path(job.directory))
    _check_path("-o", str(job.log), ":", "which would end a host's name")
    _check_path("-S", shell, "@,", "which would begin a host's name or another path")
    asked = {
        "-N ": name,
        "-S ": shell,
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
    if after:
        yield f"-W depend={one_line(':'.join(('afterany', *after)), '-W depend')}"
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


def _check_path(option: str, path: str, not_in_it: str, why: str) -> None:
    if any(each in path for each in not_in_it):
        raise ConfigError(
            f"{option} of the job script: expected a path without {' and '.join(map(repr, not_in_it))}, {why}, got "
            f"{path!r}; set shared_dir to another place"
        )


def _check(pilots: Pilots) -> None:
    if any(_ARRAY.search(line) for line in pilots.directives):
        raise ConfigError(
            "pilots.directives: expected no -J, which makes a job array, and a pilot is one job; remove it, and let "
            "pilots.max_pilots say how many there may be"
        )
    if pilots.qos:
        raise ConfigError(f"pilots.qos: expected none, since PBS has queues alone, got {pilots.qos!r}; leave it empty")
    if pilots.reservation and pilots.partition:
        raise ConfigError(
            f"pilots.reservation: a reservation of PBS is a queue, and pilots.partition names one, "
            f"{pilots.partition!r}; leave one of them empty"
        )
    if pilots.launcher == "srun":
        raise ConfigError("pilots.launcher: expected 'mpiexec' or 'process', got 'srun', which is Slurm's")
