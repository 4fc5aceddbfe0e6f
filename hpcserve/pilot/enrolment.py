"""The agent's enrolment file: waited for, checked, read, used up. Decides nothing about what stands in it.

One that is used up stays there without its content, so that another run of the same incarnation, which the daemon
would not let in, need not wait for it; the daemon removes it when the pilot has ended.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hpcserve.cluster.signals import Signals
from hpcserve.errors import ConfigError
from hpcserve.pilot.watch import Watch
from hpcserve.wire.launch import Enrolment, decode_enrolment

_log = logging.getLogger(__name__)

_LOOK_S = 0.25


class NotEnrolled(ConfigError):
    """The enrolment file is not there."""


class UsedUp(ConfigError):
    """Another run of the pilot is enrolled by this file."""


def use_up(path: Path) -> None:
    """The daemon knows us: the secret serves nobody else any more."""
    try:
        os.truncate(path, 0)
    except FileNotFoundError:
        return  # the pilot has ended, for the daemon
    except OSError as error:  # the daemon lets nobody else in by it, whatever stands there
        _log.warning("the enrolment file stays as it is: %s", error)


def wait_for_enrolment(
    path: Path, *, wait_s: float, signals: Signals, clock: Callable[[], float] = time.monotonic
) -> Enrolment | None:
    """The enrolment, as soon as its file is there; None when the process is to end before.

    The daemon lays the file of a job that was begun anew down when it has seen that, which may take it a while.

    Raises:
        NotEnrolled: The file did not come in time.
        UsedUp: Another run was enrolled by it.
        ConfigError: It is readable by others, or something else.
    """
    until = clock() + wait_s
    watch = Watch()
    watch.add(signals.fileno(), signals.drain)
    said = False
    while not signals.stop:
        found = _read(path)
        if found is not None:
            return found
        left_s = until - clock()
        if left_s <= 0:
            raise NotEnrolled(f"{path} did not come within {wait_s:g} s: no daemon expects this run of the pilot")
        if not said:
            _log.info("waiting up to %g s for %s, which the daemon lays down%s", wait_s, path, _no_directory(path))
            said = True
        watch.turn(min(_LOOK_S, left_s))
    return None


def _no_directory(path: Path) -> str:
    if path.parent.is_dir():
        return ""
    return "; its directory is not there: does this node see the site's shared_dir?"


def _read(path: Path) -> Enrolment | None:
    try:
        # On NFS a name that was not there may be remembered as missing; to list its directory forgets that.
        if path not in path.parent.iterdir():
            return None
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read the enrolment file: {error}") from error
    if mode & 0o077:
        raise ConfigError(f"{path}: mode {mode:04o} lets others read this pilot's secret; it must be 0600")
    if not content:
        raise UsedUp(f"{path} is used up: another run of this pilot was enrolled by it, and only one may be")
    try:
        return decode_enrolment(content)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: not an enrolment: {error}") from error
