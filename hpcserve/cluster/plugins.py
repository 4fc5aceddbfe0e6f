"""Finds the scheduler or the launcher that a site file names: a built-in one, else an installed entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from hpcserve.cluster.launchers import ProcessLauncher
from hpcserve.cluster.local import LocalScheduler
from hpcserve.cluster.seam import Launcher, Scheduler
from hpcserve.config import Site
from hpcserve.errors import ConfigError

T = TypeVar("T")

_STOP_MARGIN_S = 5.0


def _local(site: Site) -> Scheduler:
    return LocalScheduler(
        site.state_dir / "local-jobs",
        cancel_grace_s=site.pilots.stop_grace_s + _STOP_MARGIN_S,
        keep_ended=site.pilots.keep_ended,
    )


_SCHEDULERS: dict[str, Callable[[Site], Scheduler]] = {"local": _local}
_LAUNCHERS: dict[str, Callable[[], Launcher]] = {"process": ProcessLauncher}


def open_scheduler(site: Site) -> Scheduler:
    """The scheduler that ``scheduler.kind`` of the site names.

    Raises:
        ConfigError: There is none of that name, or its package does not load.
    """
    return _named(site.scheduler.kind, _SCHEDULERS, group="hpcserve.schedulers", field="scheduler.kind")(site)


def open_launcher(name: str) -> Launcher:
    """The launcher called ``name``.

    Raises:
        ConfigError: There is none of that name, or its package does not load.
    """
    return _named(name, _LAUNCHERS, group="hpcserve.launchers", field="pilots.launcher")()


def _named(name: str, built_in: Mapping[str, T], *, group: str, field: str) -> T:
    if name in built_in:
        return built_in[name]
    installed = {entry.name: entry for entry in entry_points(group=group)}
    if name not in installed:
        known = ", ".join(sorted({*built_in, *installed}))
        raise ConfigError(f"{field}: nothing is called {name!r}; known: {known}")
    try:
        found: T = installed[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{field}: {name!r} ({installed[name].value}) does not load: {error}") from error
    return found
