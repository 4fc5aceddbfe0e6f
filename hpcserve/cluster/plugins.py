"""Finds the scheduler or the launcher that a site file names: a built-in one, else an installed entry point.

What only one of them needs is imported with it. An agent opens a launcher alone, and its replicas wait for it.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from hpcserve.cluster.launchers import MpiexecLauncher, ProcessLauncher, SrunLauncher
from hpcserve.cluster.seam import LAUNCHER_KILL_S, Launcher, Scheduler
from hpcserve.errors import ConfigError
from hpcserve.wire.launch import MpiRules

if TYPE_CHECKING:
    from hpcserve.config import Site

T = TypeVar("T")

_STOP_MARGIN_S = 5.0


def _local(site: Site) -> Scheduler:
    from hpcserve.cluster.local import LocalScheduler

    return LocalScheduler(
        site.state_dir / "local-jobs",
        cancel_grace_s=site.pilots.stop_grace_s + LAUNCHER_KILL_S + _STOP_MARGIN_S,
        keep_ended=site.pilots.keep_ended,
    )


def _slurm(site: Site) -> Scheduler:
    from hpcserve.cluster.runner import Runner
    from hpcserve.cluster.script import command_environment, job_environment, job_script
    from hpcserve.cluster.slurm import SlurmScheduler
    from hpcserve.cluster.slurm_commands import CommandsTransport
    from hpcserve.cluster.slurm_estimate import SlurmEstimate
    from hpcserve.cluster.slurm_pyslurm import PyslurmTransport, usable
    from hpcserve.cluster.slurm_transport import ChosenTransport

    timeout_s = site.scheduler.timeout_s
    runner = Runner(timeout_s=timeout_s, environment=command_environment(os.environ))
    transport = ChosenTransport(
        site.scheduler.transport,
        commands=lambda: CommandsTransport(runner),
        pyslurm=lambda: PyslurmTransport(timeout_s=timeout_s, environment=job_environment(os.environ)),
        unusable=lambda: usable(timeout_s),
    )
    return SlurmScheduler(
        transport,
        render=partial(job_script, site),
        poll_s=site.scheduler.poll_s,
        estimate=SlurmEstimate(runner).starts_at,
        poll_max_s=site.scheduler.poll_max_s,
    )


def _pbs(site: Site) -> Scheduler:
    from hpcserve.cluster.pbs import PbsScheduler
    from hpcserve.cluster.pbs_commands import PbsCommands
    from hpcserve.cluster.runner import Runner
    from hpcserve.cluster.script import command_environment, job_script

    runner = Runner(timeout_s=site.scheduler.timeout_s, environment=command_environment(os.environ))
    user = pwd.getpwuid(os.getuid()).pw_name
    return PbsScheduler(
        PbsCommands(runner, user=user),
        user=user,
        render=partial(job_script, site),
        poll_s=site.scheduler.poll_s,
        poll_max_s=site.scheduler.poll_max_s,
    )


_SCHEDULERS: dict[str, Callable[[Site], Scheduler]] = {"local": _local, "slurm": _slurm, "pbs": _pbs}
_LAUNCHERS: dict[str, Callable[[MpiRules], Launcher]] = {
    "process": ProcessLauncher,
    "srun": SrunLauncher,
    "mpiexec": MpiexecLauncher,
}


async def check(site: Site) -> None:
    """Tries, before a daemon starts, what could only be told in a log later.

    Raises:
        ConfigError: The scheduler cannot be used as the site file says.
    """
    _scheduler(site.scheduler.kind)
    if site.scheduler.kind == "slurm" and site.scheduler.transport == "pyslurm":
        from hpcserve.cluster.slurm_pyslurm import usable
        from hpcserve.cluster.slurm_transport import no_pyslurm

        why = await usable(site.scheduler.timeout_s)
        if why:
            raise ConfigError(no_pyslurm(why))


def open_scheduler(site: Site) -> Scheduler:
    """The scheduler that ``scheduler.kind`` of the site names.

    Raises:
        ConfigError: There is none of that name, or its package does not load.
    """
    return _scheduler(site.scheduler.kind)(site)


def open_launcher(name: str, mpi: MpiRules) -> Launcher:
    """The launcher called ``name``, which starts MPI ranks as the site says.

    Raises:
        ConfigError: There is none of that name, or its package does not load.
    """
    return _named(name, _LAUNCHERS, group="hpcserve.launchers", field="pilots.launcher")(mpi)


def _scheduler(kind: str) -> Callable[[Site], Scheduler]:
    return _named(kind, _SCHEDULERS, group="hpcserve.schedulers", field="scheduler.kind")


def _named(name: str, built_in: Mapping[str, T], *, group: str, field: str) -> T:
    if name in built_in:
        return built_in[name]
    from importlib.metadata import entry_points

    installed = {entry.name: entry for entry in entry_points(group=group)}
    if name not in installed:
        known = ", ".join(sorted({*built_in, *installed}))
        raise ConfigError(f"{field}: nothing is called {name!r}; known: {known}")
    try:
        found: T = installed[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{field}: {name!r} ({installed[name].value}) does not load: {error}") from error
    return found
