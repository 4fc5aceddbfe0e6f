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
from hpcserve.cluster.script_options import asked, directive, not_for_directives, one_line
from hpcserve.cluster.seam import JobId, PilotJob, own_log
from hpcserve.config import Pilots, Site
from hpcserve.errors import ConfigError

_FLAGS = "GIVXfhz"
_OF_THE_LOG = "since `hpcserve logs` shows what PBS says of a pilot beside its log; remove it"
_NOT = {
    "N": "by which hpcserve finds a pilot's job again; remove it",
    "J": "which makes a job array, and a pilot is one job; remove it, and set pilots.max_pilots",
    "q": "which overrules pilots.partition, the queue whose limits hpcserve knows; remove it, and set that",
    "o": _OF_THE_LOG,
    "e": _OF_THE_LOG,
    "z": "with which qsub does not tell a job's id; remove it",
}
"""Options that stand in no directive, and why."""

_LASTS = re.compile(r"(?:^|,)\s*(?:(?:min|max)_)?walltime=")
_OF_A_CHUNK = re.compile(r"(?:^|,)\s*((?:nodes|ncpus|ngpus|mem|vmem|mpiprocs|ompthreads)=)")
_OVERRULES = re.compile(r"(?:^|,)\s*((?:select|place)=)")
_BLOCKS = re.compile(r"(?:^|,)\s*block=")


def options(site: Site, job: PilotJob, name: str, after: Collection[JobId] = ()) -> Iterator[str]:
    """Those of the site's ``directives`` last. The job begins when those that it comes ``after`` have ended.

    Raises:
        ConfigError: A value cannot stand in a script, or asks for what PBS does not have.
    """
    pilots = site.pilots
    _check(pilots)
    has_shell = any(name == "S" for line in pilots.directives for name, _ in asked(line, _FLAGS))
    shell = "" if has_shell else str(pbs_shell.path(job.directory))
    _check_path("-o", str(job.log), ":", "which would end a host's name")
    _check_path("-S", shell, "@,", "which would begin a host's name or another path")
    wanted = {
        "-N ": name,
        "-S ": shell,
        "-A ": pilots.account,
        "-q ": pilots.reservation or pilots.partition,
        "-l select=": f"{job.nodes or pilots.nodes}{_chunk(pilots)}",
        "-l place=": "scatter:excl" if pilots.exclusive else "scatter",
        "-l walltime=": walltime(job.walltime_s),
        "-o ": str(own_log(job.log)),
    }
    for option, value in wanted.items():
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
    for line in pilots.directives:
        for name, value in asked(line, _FLAGS):
            _check_directive(name, value)
    if pilots.qos:
        raise ConfigError(f"pilots.qos: expected none, since PBS has queues alone, got {pilots.qos!r}; leave it empty")
    if pilots.reservation and pilots.partition:
        raise ConfigError(
            f"pilots.reservation: a reservation of PBS is a queue, and pilots.partition names one, "
            f"{pilots.partition!r}; leave one of them empty"
        )
    if pilots.launcher == "srun":
        raise ConfigError("pilots.launcher: expected 'mpiexec' or 'process', got 'srun', which is Slurm's")


def _check_directive(name: str, value: str) -> None:
    if name in _NOT:
        raise not_for_directives(f"-{name}", _NOT[name])
    if name == "W" and _BLOCKS.search(value):
        raise not_for_directives("-W block", "with which qsub does not answer before the job has ended; remove it")
    if name == "l" and _LASTS.search(value):
        raise not_for_directives("-l walltime", "since agents are told how long their jobs last; set pilots.walltime_s")
    if name == "l" and (found := _OVERRULES.search(value)):
        why = "which overrules what hpcserve asks for; remove it, and set pilots.nodes, pilots.constraint and the like"
        raise not_for_directives(f"-l {found[1]}", why)
    if name == "l" and (found := _OF_A_CHUNK.search(value)):
        why = "which PBS takes from no job with a -l select, as pilots are; set pilots.cpus_per_node and the like"
        raise not_for_directives(f"-l {found[1]}", f"{why}, or pilots.constraint")
