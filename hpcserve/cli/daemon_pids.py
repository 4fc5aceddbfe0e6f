"""Which process of this host is a daemon: what may be sent a signal where the daemon cannot be asked."""

from __future__ import annotations

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
