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
from collections.abc import Callable, Collection, Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined, TemplateError, TemplateSyntaxError

from hpcserve.cluster import pbs_options, slurm_options
from hpcserve.cluster.seam import JobId, PilotJob
from hpcserve.config import Site, expanded, home
from hpcserve.errors import ConfigError

SETUP_FAILED = 78
"""The exit code of a job whose ``pilots.setup`` failed. Source: EX_CONFIG, sysexits.h(3head)."""

_COME_ALONG = re.compile(
    # Who and where, the language, where programs and libraries are found, and what environment modules set.
    r"HOME|LOGNAME|USER|SHELL|LANG|LANGUAGE|LC_\w+|TZ|PATH|LD_LIBRARY_PATH|PYTHONPATH|SLURM_CONF"
    r"|MODULE\w*|LOADEDMODULES|_LMFILES_|LMOD_\w+|_ModuleTable\w*|CRAY\w*|PE_\w+"
)


# The user's token of Slurm; where PBS is. Source: sbatch(1); pbs_environment(7B) and pbs.conf(8B) of OpenPBS.
_OF_COMMANDS = frozenset(
    {"SLURM_JWT", "PBS_SERVER", "PBS_DEFAULT", "PBS_PRIMARY", "PBS_SECONDARY", "PBS_CONF_FILE", "PBS_EXEC"}
)


def job_script(site: Site, job: PilotJob, name: str, after: Collection[JobId] = ()) -> str:
    """The script of one pilot job, byte for byte as it is submitted.

    Args:
        site: Whose ``[pilots]`` say what the job asks for.
        job: The pilot job.
        name: What the scheduler calls it, by which it is found again.
        after: Jobs that have to have ended before it begins, where the scheduler wants to be told; Slurm does not.

    Raises:
        ConfigError: A value cannot stand in a script, or the site's own template is missing or wrong.
    """
    own = _OWN.get(site.scheduler.kind)
    known = {
        **({} if own is None else own(site, job, name, after)),
        "setup": site.pilots.setup,
        "setup_failed": SETUP_FAILED,
        "command": shlex.join(job.argv),
        "nodes": job.nodes or site.pilots.nodes,
        "name": name,
        "site_name": site.name,
    }
    return _rendered(site, known)


def _of_slurm(site: Site, job: PilotJob, name: str, _after: Collection[JobId]) -> dict[str, object]:
    return {
        "options": list(slurm_options.options(site, job, name)),
        "begins": begins("${SLURM_RESTART_COUNT:-0}"),
        "warn_s": slurm_options.warning_s(site, job),
    }


def _of_pbs(site: Site, job: PilotJob, name: str, after: Collection[JobId]) -> dict[str, object]:
    return {
        "options": list(pbs_options.options(site, job, name, after)),
        "begins": begins("$run"),
        "any_run": begins("[0-9]*"),
        "directory": str(job.directory),
        "log": str(job.log),
        "logs": str(job.log.parent),
        "walltime_s": math.ceil(job.walltime_s),
        "warn_s": math.ceil(min(site.pilots.warn_s, job.walltime_s / 2)),
    }


_Own = Callable[[Site, PilotJob, str, Collection[JobId]], dict[str, object]]
_OWN: dict[str, _Own] = {"slurm": _of_slurm, "pbs": _of_pbs}
"""What the template of a scheduler knows beside what all do."""


def has_script(site: Site) -> bool:
    """Whether its jobs are scripts: those of a scheduler that another package brings along are its own."""
    return site.scheduler.kind in _OWN


def begins(run: int | str) -> str:
    """The first line that a run of a job prints; the first run is 0. A job that is requeued goes on in the same log."""
    return f"hpcserve: run {run} begins"


def job_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What of the daemon's environment may come along with a job."""
    return {name: value for name, value in inherited.items() if _COME_ALONG.fullmatch(name)}


def command_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What a scheduler's commands get: what may come along with a job, where PBS is, and the user's token of Slurm.

    sbatch hands every ``SLURM_*`` on, whatever ``--export`` says; the shipped script drops the token before all else.
    """
    own = {name: value for name, value in inherited.items() if name in _OF_COMMANDS}
    return job_environment(inherited) | own


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
