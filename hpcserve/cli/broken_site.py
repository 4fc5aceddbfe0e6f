"""Where a site's file is wrong: what is said of its daemon, which runs all the same, and how ``down`` finds that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcserve.cli.daemon_pids import noted_pid
from hpcserve.cli.terminal import note
from hpcserve.errors import ConfigError, HpcserveError

if TYPE_CHECKING:
    from pathlib import Path

    from hpcserve.client.services import Service


def service_all_the_same(error: ConfigError, site: str | None) -> tuple[Service, Path]:
    """The service of a site whose file has a fault, if there is a record of it, and its ``state_dir``; says the fault.

    Raises:
        ConfigError: The ``error``: it is about something else, or there is no record as far as the file can be read.
    """
    from hpcserve import config
    from hpcserve.client.services import Service
    from hpcserve.wire.record import RECORD_NAME

    try:
        found = config.directories_of(site)
        record = found.shared_dir / RECORD_NAME
        there = record.exists() and _is_about(error, config.site_named(site))
    except (ConfigError, OSError):
        raise error from None
    if not there:
        raise error
    note(f"the site file has a fault, and its daemon goes down all the same: {error.message}")
    return Service(record), found.state_dir


def in_full(error: HpcserveError) -> HpcserveError:
    """The error; with the daemon that runs, if it is about the file of a site of the user's that has one.

    Where a file that is wrong would have its daemon's directory cannot be told, so it is looked for at the usual place.
    """
    if not isinstance(error, ConfigError):
        return error
    from hpcserve import config

    try:
        sites = config.home() / "sites"
        for name in (path.stem for path in sorted(sites.glob("*.toml"))):
            pid = noted_pid(sites / name / "state") if _is_about(error, name) else None
            if pid is not None:
                told = (
                    f"its daemon runs on (pid {pid}): correct the file, then for example: hpcserve down --site {name}"
                )
                return ConfigError(f"{error.message}; {told}")
    except (ConfigError, OSError):  # the home itself is wrong
        return error
    return error


def _is_about(error: ConfigError, name: str) -> bool:
    from hpcserve import config

    try:
        config.load_site(name)
    except ConfigError as found:
        return found.message == error.message
    return False
