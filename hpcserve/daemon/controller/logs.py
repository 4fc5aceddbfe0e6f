"""The end of the log files of replicas, pilots and the daemon's processes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from hpcserve.core.spelling import nearest, shortened
from hpcserve.errors import NotFound
from hpcserve.wire.admin import AskLogs, Logs, LogText

MOST_BYTES = 256 << 10
DAEMON = ("supervisor", "broker", "controller", "admission")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def read_logs(directory: Path, arguments: AskLogs, replicas: Iterable[str]) -> Logs:
    """The last lines of what ``arguments.name`` names: a log, or all logs of a deployment's replicas.

    ``replicas`` are those that run: one that has printed nothing has no file yet.

    Raises:
        NotFound: There is no such log.
    """
    name = arguments.name
    known = {replica: directory / f"{replica}.log" for replica in replicas}
    known |= {path.name.removesuffix(".log"): path for path in directory.glob("*.log")}
    wanted = f"daemon-{name}" if name in DAEMON else name
    found = [wanted] if wanted in known else [log for log in sorted(known) if _is_replica_of(log, name)]
    if not found or not _NAME.fullmatch(name):
        names = [log.removeprefix("daemon-") for log in known]
        raise NotFound(f"no log of {shortened(name)}{nearest(name, names)}")
    return Logs(logs=tuple(LogText(name=log, text=_tail(known[log], arguments.lines)) for log in found))


def _is_replica_of(log: str, deployment: str) -> bool:
    """A replica is called ``DEPLOYMENT-SEED-NUMBER``."""
    return re.fullmatch(re.escape(deployment) + r"-[0-9a-f]{4}-\d+", log) is not None


def _tail(path: Path, lines: int) -> str:
    """The last lines, at most MOST_BYTES of them; where the log has just begun anew, of the one before too."""
    text = b""
    for part in (path.with_name(path.name + ".1"), path):
        try:
            with part.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_BYTES))
                text += file.read(MOST_BYTES)
        except FileNotFoundError:
            continue
    kept = text[-MOST_BYTES:].decode(errors="replace").splitlines(keepends=True)
    return "".join(kept[-max(0, lines) :]) if lines > 0 else ""
