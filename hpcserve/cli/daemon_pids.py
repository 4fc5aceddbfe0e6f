"""Which process of this host is a daemon: what may be sent a signal where the daemon cannot be asked."""

from __future__ import annotations

import socket
from pathlib import Path


def noted_pid(state_dir: Path) -> int | None:
    """The supervisor that the runtime directory names, if it runs here. Another host may use the directory as well."""
    from hpcserve import config
    from hpcserve.daemon import processes

    return processes.running(config.runtime_dir(state_dir)).get(processes.SUPERVISOR)


def is_daemon(pid: int) -> bool:
    """Whether this process belongs to a daemon. A pid alone is no proof: pids are given again."""
    from hpcserve.cluster.processes import start_time

    if start_time(pid) is None:
        return False
    try:
        return b"hpcserve.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()  # a system without /proc: believe the pid


def standstill_in_words(service: str | None) -> str:
    """Why nobody may answer, and what to do, as far as the service is that of the site; empty where that is not known.

    On its own host: which of the daemon's processes stand still. On another one: that a daemon here takes its place.
    """
    from hpcserve import config
    from hpcserve.client.services import find_service
    from hpcserve.errors import ConfigError, HpcserveError

    try:
        site, chosen = config.load_site(None), find_service(service)
        own = chosen.record is not None and chosen.record.parent == site.shared_dir
        host = chosen.read().host if own and site.daemon.placement == "login" else socket.gethostname()
    except (ConfigError, HpcserveError):  # told already
        return ""
    if host != socket.gethostname():
        return f"if the daemon on {host} stands still, hpcserve up here takes its place, once its lease is over"
    place = config.runtime_dir(site.state_dir)
    if not own or not place.exists():
        return ""
    from hpcserve.daemon import processes

    return processes.stopped_in_words(place)
