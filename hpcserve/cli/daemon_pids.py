"""Which process of this host is a daemon: what may be sent a signal where the daemon cannot be asked."""

from __future__ import annotations

from pathlib import Path


def noted_pid(state_dir: Path) -> int | None:
    """The supervisor that the runtime directory names, if it runs here. Another host may use the directory as well."""
    import msgspec

    from hpcserve import config
    from hpcserve.daemon.launch import PROCESSES

    try:
        noted = msgspec.json.decode((config.runtime_dir(state_dir) / PROCESSES).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        return None
    supervisor = noted.pop("supervisor", None)
    # Its pid may be that of another daemon by now; those of its children as well is beyond chance.
    lives = supervisor is not None and is_daemon(supervisor) and any(map(is_daemon, noted.values()))
    return supervisor if lives else None


def is_daemon(pid: int) -> bool:
    """Whether this process belongs to a daemon. A pid alone is no proof: pids are given again."""
    from hpcserve.cluster.processes import start_time

    if start_time(pid) is None:
        return False
    try:
        return b"hpcserve.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()  # a system without /proc: believe the pid
