"""The text of the script that becomes a pilot job, from a Jinja2 template. Runs and submits nothing.

The shipped templates are in ``jobscripts/``, one for each batch scheduler; ``pilots.script`` of a site names another
in its place, which may extend a shipped one. Decides which options a job has; not when it is submitted.

An environment that comes along with a job may end in the scheduler's accounting, and variables such as
``SBATCH_PARTITION`` would overrule the script: :func:`job_environment` says what may come along.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined, TemplateError, TemplateSyntaxError

from hpcserve.cluster.seam import PilotJob
from hpcserve.config import Site, expanded, home
from hpcserve.errors import ConfigError

SETUP_FAILED = 78
"""The exit code of a job whose ``pilots.setup`` failed. Source: EX_CONFIG, sysexits.h(3head)."""

_LONGEST_WARNING_S = 65535
"""Source: sbatch(1), ``--signal``."""

_COME_ALONG = re.compile(
    # Who and where, the language, where programs and libraries are found, and what environment modules set.
    r"HOME|LOGNAME|USER|SHELL|LANG|LANGUAGE|LC_\w+|TZ|PATH|LD_LIBRARY_PATH|PYTHONPATH|SLURM_CONF"
    r"|MODULE\w*|LOADEDMODULES|_LMFILES_|LMOD_\w+|_ModuleTable\w*|CRAY\w*|PE_\w+"
)


def job_script(site: Site, job: PilotJob, name: str) -> str:
    """The script of one pilot job, byte for byte as it is submitted.

    Args:
        site: Whose ``[pilots]`` say what the job asks for.
        job: The pilot job.
        name: What the scheduler calls it, by which it is found again.

    Raises:
        ConfigError: A value cannot stand in a script, or the site's own template is missing or wrong.
    """
    known = {
        "options": list(_options(site, job, name)),
        "begins": begins("${SLURM_RESTART_COUNT:-0}"),
        "setup": site.pilots.setup,
        "setup_failed": SETUP_FAILED,
        "command": shlex.join(job.argv),
        "nodes": job.nodes or site.pilots.nodes,
        "warn_s": warning_s(site, job),
        "name": name,
        "site_name": site.name,
    }
    return _rendered(site, known)


def begins(run: int | str) -> str:
    """The first line that a run of a job prints; the first run is 0. A job that is requeued goes on in the same log."""
    return f"hpcserve: run {run} begins"


def warning_s(site: Site, job: PilotJob) -> int:
    """So long before the job's end Slurm warns it: ``pilots.warn_s``, and no more than half of the walltime."""
    return max(1, math.ceil(min(site.pilots.warn_s, job.walltime_s / 2, _LONGEST_WARNING_S)))


def job_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What of the daemon's environment may come along with a job."""
    return {name: value for name, value in inherited.items() if _COME_ALONG.fullmatch(name)}


def command_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What Slurm's commands get: what may come along with a job, and the user's token, where one lets the user in.

    sbatch hands every ``SLURM_*`` on, whatever ``--export`` says; the shipped script drops the token before all else.
    """
    tokens = {name: value for name, value in inherited.items() if name == "SLURM_JWT"}
    return job_environment(inherited) | tokens


def _options(site: Site, job: PilotJob, name: str) -> Iterator[str]:
    """Slurm's options, those of the site's ``directives`` last: a later one overrules. Source: sbatch(1)."""
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
            yield f"--{option}={_one_line(str(value), option)}"
    if pilots.exclusive:
        yield "--exclusive"
    yield "--requeue" if pilots.requeue else "--no-requeue"
    if (job.nodes or pilots.nodes) > 1:
        yield "--no-kill"  # the other nodes go on when one is lost
    for directive in pilots.directives:
        yield _directive(directive)


def walltime(seconds: float) -> str:
    """``D-HH:MM:SS``, rounded up to whole seconds; Slurm rounds up to minutes."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02}:{minute:02}:{second:02}"


def _one_line(value: str, option: str) -> str:
    if not value.isprintable():
        raise ConfigError(f"--{option} of the job script: expected printable text on one line, got {value!r}")
    return shlex.quote(value)


def _directive(line: str) -> str:
    if not line.startswith("-") or not line.isprintable():
        raise ConfigError(f"pilots.directives: expected one option on one line, such as '--gres=gpu:2', got {line!r}")
    return line


def _rendered(site: Site, known: Mapping[str, object]) -> str:
    place, text = _template(site)
    environment = Environment(
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 (a shell script; its values are quoted for the shell)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=FunctionLoader(_shipped),
    )
    environment.filters["quote"] = shlex.quote
    try:
        return environment.from_string(text).render(known)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{place}:{error.lineno}: {error.message}") from error
    except TemplateError as error:
        raise ConfigError(f"{place}: {error.message}") from error
    except Exception as error:  # an expression of a template raises what it likes
        raise ConfigError(f"{place}: {type(error).__name__}: {error}; correct the template") from error


def _template(site: Site) -> tuple[str, str]:
    """Where the site's template is, and its text."""
    if not site.pilots.script:
        shipped = f"{site.scheduler.kind}.sh.j2"
        text = _shipped(shipped)
        if text is None:
            raise ConfigError(f"site {site.name!r} has no job script, as its scheduler is {site.scheduler.kind!r}")
        return f"jobscripts/{shipped}", text
    named = site.pilots.script
    path = expanded(named) if "/" in named else home() / "jobscripts" / named
    try:
        return str(path), path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the job script template of pilots.script: {error}") from error


def _shipped(name: str) -> str | None:
    """The text of a template that comes with hpcserve; also what a site's own one may extend or include."""
    template = files("hpcserve.jobscripts").joinpath(Path(name).name)
    return template.read_text() if template.is_file() and name.endswith(".j2") else None
