"""Whether the kernel has killed a process here for want of memory. It says so in a counter, not to the parent.

Decides nothing: a SIGKILL may have come from somebody else in the same moment.
"""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/")


def counter_file(root: Path = _ROOT) -> Path | None:
    """The file with the counter ``oom_kill`` of our own control group, else the machine's; None: the system has none.

    Source: cgroups(7); the kernel's admin-guide, cgroup-v2 (``memory.events``) and cgroup-v1 (``memory.oom_control``).
    """
    groups = root / "sys/fs/cgroup"
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found.append(groups / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            found.append(groups / "memory" / path.lstrip("/") / "memory.oom_control")
    found.append(root / "proc/vmstat")
    return next((path for path in found if _count(path) is not None), None)


class MemoryWatch:
    """Counts the kernel's kills from now on."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = self._now()

    def take(self) -> bool:
        """Whether there was a kill that nobody has taken yet; takes one."""
        if self._now() <= self._seen:
            return False
        self._seen += 1
        return True

    def _now(self) -> int:
        return (_count(self._path) or 0) if self._path is not None else 0


def _count(path: Path) -> int | None:
    for line in _text(path).splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.isdecimal():
            return int(number)
    return None


def _text(path: Path) -> str:
    """What the file says; a control group that has none, or is not shown to us, says nothing."""
    try:
        return path.read_text()
    except OSError:
        return ""
