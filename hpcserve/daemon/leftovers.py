"""The pilots of which a daemon did not hear that they had ended before it went down itself.

The controller writes them down before it begins to end them, and once more at its end; where no controller got so far,
the supervisor says that there may be some. The file is in the shared directory, and ``hpcserve down`` shows it. The
next daemon knows them from its store, and removes the file.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

_log = logging.getLogger(__name__)

FILE = "left-behind.json"

SOME = "one pilot or several"
NOT_WRITTEN = "which ones could not be written down: the disk was full"
NOT_SEEN_TO = "the daemon's controller did not end them: it stood still or was killed, and the next one too"
NOT_CONFIRMED = "the daemon's controller was killed before it knew that the job has ended"

KILLED = "its daemon ended without a word"


def not_ended(phase: str) -> str:
    """Why one may go on of which the scheduler says no more than this."""
    return f"the batch scheduler still called it {phase} when the daemon went down; its node may be lost"


class LeftBehind(msgspec.Struct, frozen=True):
    """A pilot that may go on; ``job`` is empty if the scheduler never told its id."""

    pilot: str
    job: str
    cause: str


def write(shared_dir: Path, left: Sequence[LeftBehind]) -> None:
    """Leaves word of them; of none, no file."""
    path = shared_dir / FILE
    try:
        if left:
            path.write_bytes(msgspec.json.encode(left))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("that pilots may go on cannot be written to %s: %s", path, error.strerror)


def write_unconfirmed(shared_dir: Path) -> None:
    """Leaves word of those whose end no controller has seen to, unless one has said which."""
    if not read(shared_dir):
        write(shared_dir, [LeftBehind(SOME, "", NOT_SEEN_TO)])


def read(shared_dir: Path) -> tuple[LeftBehind, ...]:
    """Those of the daemon that went down last."""
    try:
        return msgspec.json.decode((shared_dir / FILE).read_bytes(), type=tuple[LeftBehind, ...])
    except OSError:
        return ()
    except msgspec.MsgspecError:
        return (LeftBehind(SOME, "", NOT_WRITTEN),)
