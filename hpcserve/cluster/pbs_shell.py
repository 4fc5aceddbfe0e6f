"""The shell that leads a pilot's job on PBS, a file in the directory that the job sees.

To end a job PBS sends SIGTERM to all its processes, and what leads them is a login shell, which ends of it at once;
what is left of the job is then killed, whatever ``kill_delay`` says. This shell does not heed the signal, so that the
agent, which has a handler of its own, has the time to drain.
"""

from __future__ import annotations

import secrets
import shlex
from pathlib import Path

from hpcserve.errors import SchedulerError

_NAME = "pbs-shell"
_TEXT = """#!/bin/bash
# Leads hpcserve's jobs on PBS, by -S. A job ends with its first shell, so that one does not heed the SIGTERM.
trap '' TERM
exec /bin/bash -l
"""
_MODE = 0o755


def path(directory: Path) -> Path:
    """Where it is, for jobs that start in ``directory``."""
    return directory / _NAME


def is_named(directory: Path, script: str) -> bool:
    """Whether it leads what a job script becomes, however its path is quoted there."""
    named = str(path(directory))
    return named in script or shlex.quote(named) in script


def lay_down(directory: Path) -> None:
    """Writes it, unless it is there.

    Raises:
        SchedulerError: It cannot be written.
    """
    place = path(directory)
    try:
        if place.is_file() and place.read_text() == _TEXT and place.stat().st_mode & 0o777 == _MODE:
            return
        new = place.with_name(f".{_NAME}.{secrets.token_hex(8)}")
        new.write_text(_TEXT)
        new.chmod(_MODE)
        new.replace(place)
    except (OSError, UnicodeDecodeError) as error:
        raise SchedulerError(f"cannot write {place}, which leads jobs of PBS: {error}; look at shared_dir") from error
