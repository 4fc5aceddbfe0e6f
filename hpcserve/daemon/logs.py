"""The logs of the daemon's processes: ``daemon-NAME.log``, with one older part ``daemon-NAME.log.1``."""

from __future__ import annotations

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)

LOG_BYTES = 8 << 20
"""A log that is longer when its process starts is put aside first."""

_LAST_BYTES = 4096


def log_path(shared_dir: Path, name: str) -> Path:
    """Where the log of the daemon's process ``name`` is."""
    return shared_dir / "logs" / f"daemon-{name}.log"


def open_log(path: Path) -> int:
    """Opens a log for appending. The directory of the logs is made again, where somebody has removed it.

    Returns:
        The descriptor, which the caller closes.

    Raises:
        OSError: It cannot be opened.
    """
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def open_log_or_none(path: Path) -> int:
    """The same; where it cannot be opened what is written goes nowhere: a process without a log is better than none.

    Raises:
        OSError: Not even that can be opened.
    """
    try:
        return open_log(path)
    except OSError as error:
        _log.warning("nothing is written to %s: %s", path, error)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def log_to(path: Path) -> None:
    """Sends this process's own log to a file.

    Raises:
        OSError: It cannot be opened.
    """
    stream = os.fdopen(open_log(path), "a")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=stream, force=True)


def last_line(path: Path) -> str:
    """The last line of a log; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
