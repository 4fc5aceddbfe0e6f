"""Where a site's file is wrong, every command is refused; that its daemon runs all the same is said then."""

from __future__ import annotations

from hpcserve.cli.daemon_pids import noted_pid
from hpcserve.errors import ConfigError, HpcserveError


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
