"""The log files of replicas, pilots and the daemon's processes: their end, or what came after a mark.

A log is a file and, since it is bounded, an older part beside it; it grows and is put aside at any time. A *mark* is
a place in it that stays true meanwhile: which file, and how many bytes of it have been read.
"""

from __future__ import annotations

import codecs
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hpcserve.auth.private import storage_error
from hpcserve.cluster.seam import OWN_LOG
from hpcserve.core.retention import over
from hpcserve.core.spelling import nearest, shortened
from hpcserve.errors import InvalidInput, NotFound
from hpcserve.wire.admin import AskLogs, Logs, LogText

_log = logging.getLogger(__name__)

MOST_BYTES = 256 << 10
DAEMON = ("supervisor", "broker", "controller", "admission")
_PARTS = ("", ".1", OWN_LOG)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MARK = re.compile(r"(\d{1,20}):(\d{1,20})", re.ASCII)


class _Mark(NamedTuple):
    inode: int
    offset: int


def prune_logs(directory: Path, *, live: Collection[str], keep: int) -> None:
    """Removes the logs of pilots and replicas that have ended, but for the last ``keep``.

    Args:
        directory: Where they are.
        live: The pilots and replicas that have not ended.
        keep: Of how many others the logs stay.
    """
    try:
        written_s = _written_s(directory)
    except OSError as error:
        _log.warning("old logs stay: %s", error)
        return
    own = {f"daemon-{name}" for name in DAEMON}
    for writer in over(written_s, live={*live, *own}, keep=keep):
        for part in _PARTS:
            path = directory / f"{writer}.log{part}"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("an old log stays: %s", error)


def _written_s(directory: Path) -> dict[str, float]:
    """When each writer of logs last wrote, by the file system's clock."""
    written_s: dict[str, float] = {}
    for path in directory.iterdir():
        writer, is_log, part = path.name.rpartition(".log")
        if is_log and part in _PARTS:
            with suppress(FileNotFoundError):  # it was put aside meanwhile
                written_s[writer] = max(written_s.get(writer, 0.0), path.stat().st_mtime)
    return written_s


def read_logs(
    directory: Path,
    arguments: AskLogs,
    *,
    writers: Iterable[str],
    deployments: Iterable[str],
    may_read: Callable[[str], bool] = lambda log: True,
) -> Logs:
    """The logs that ``arguments.name`` names: one, or those of a deployment's replicas, who wrote last at the end.

    Args:
        directory: Where they are.
        arguments: What is asked for.
        writers: Replicas and pilots: one that has printed nothing has no file yet.
        deployments: Those that are served: one whose replicas have not been started has no log at all.
        may_read: Whether there is such a log for who asks.

    Raises:
        InvalidInput: A mark is none.
        NotFound: There is no such log.
        ConfigError: They cannot be read.
    """
    try:
        return _read(directory, arguments, writers, deployments, may_read)
    except OSError as error:  # such as a stale handle
        raise storage_error(error, f"cannot read the logs in {directory}") from error


def _read(
    directory: Path,
    arguments: AskLogs,
    writers: Iterable[str],
    deployments: Iterable[str],
    may_read: Callable[[str], bool],
) -> Logs:
    name = arguments.name
    known = {writer: directory / f"{writer}.log" for writer in writers}
    there = _there(directory)
    known |= {path.stem: path for path in there or ()}
    known = {log: path for log, path in known.items() if may_read(log)}
    wanted = f"daemon-{name}" if name in DAEMON else name
    of_replicas = sorted(log for log in known if _is_replica_of(log, name))
    found = [wanted] if wanted in known else sorted(of_replicas, key=lambda log: _written_at(known[log]))
    served = set(deployments)
    if (not found and name not in served) or not _NAME.fullmatch(name):
        names = {*served, *(log.removeprefix("daemon-") for log in known)}
        lost = "" if there is not None else f", since {directory} was removed; the next pilot has it made again"
        raise NotFound(f"no log of {shortened(name)}{lost or nearest(name, names)}")
    if arguments.after is None:
        return Logs(logs=tuple(_tail(log, known[log], arguments.lines) for log in found))
    marks = {log: _mark(arguments.after.get(log, "")) for log in found}
    return Logs(logs=tuple(_after(log, known[log], marks[log]) for log in found))


def _there(directory: Path) -> list[Path] | None:
    """The logs that have a file; None: their directory was removed."""
    try:
        return [path for path in directory.iterdir() if path.suffix == ".log"]
    except FileNotFoundError:
        return None


def _written_at(path: Path) -> float:
    """When it was written last, by the file system's clock; infinite where nothing is written yet."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _is_replica_of(log: str, deployment: str) -> bool:
    """A replica is called ``DEPLOYMENT-SEED-NUMBER``."""
    return re.fullmatch(re.escape(deployment) + r"-[0-9a-f]{4}-\d+", log) is not None


def _mark(text: str) -> _Mark | None:
    found = _MARK.fullmatch(text)
    if text and not found:
        raise InvalidInput(f"{shortened(text)} is no mark of a log; give back the one of the last answer")
    return _Mark(int(found[1]), int(found[2])) if found else None


def _tail(log: str, path: Path, lines: int) -> LogText:
    """The last lines, at most MOST_BYTES of them; where the log has just begun anew, of the part before too."""
    content, end = b"", None
    with _opened(path) as parts:
        for part in parts:
            part.file.seek(max(0, part.size - MOST_BYTES))
            content += part.file.read(MOST_BYTES)
            end = part.mark()
    text, mark = _text(content[-MOST_BYTES:], end)
    kept = text.splitlines(keepends=True)
    return LogText(name=log, text="".join(kept[-lines:]) if lines > 0 else "", mark=mark)


def _after(log: str, path: Path, mark: _Mark | None) -> LogText:
    """What follows the mark, at most MOST_BYTES at a time; all that there is, if its file is gone."""
    content, end = b"", mark
    with _opened(path) as parts:
        at = next((n for n, part in enumerate(parts) if mark is not None and part.holds(mark)), None)
        if at is not None and mark is not None:
            parts[at].file.seek(mark.offset)
        for part in parts[at or 0 :]:
            content += part.file.read(MOST_BYTES - len(content))
            end = part.mark()
            if len(content) == MOST_BYTES:
                break
    text, reached = _text(content, end)
    return LogText(name=log, text=text, mark=reached, more=len(content) == MOST_BYTES)


def _text(content: bytes, end: _Mark | None) -> tuple[str, str]:
    """The content as text, and its end; a character that is not whole yet is left for the next time."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(content)
    if end is None:
        return text, ""
    return text, f"{end.inode}:{max(0, end.offset - len(decoder.getstate()[0]))}"


class _Part:
    """One open file of a log."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        status = os.fstat(file.fileno())
        self.inode, self.size = status.st_ino, status.st_size

    def mark(self) -> _Mark:
        return _Mark(self.inode, self.file.tell())

    def holds(self, mark: _Mark) -> bool:
        return self.inode == mark.inode and self.size >= mark.offset


@contextmanager
def _opened(path: Path) -> Iterator[list[_Part]]:
    """The files of a log that there are, in the order of their content."""
    with ExitStack() as files:
        parts: list[_Part] = []
        # The log first: if it is put aside in between, it is found once more, not missed.
        for each in (path, path.with_name(path.name + ".1")):
            with suppress(FileNotFoundError):
                part = _Part(files.enter_context(each.open("rb")))
                if part.inode not in {other.inode for other in parts}:
                    parts.insert(0, part)
        yield parts
