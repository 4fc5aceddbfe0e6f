"""The audit log: who asked for what, what was decided, and by which rule. A line of JSON each.

A process writes a file of its own below ``STATE_DIR/audit``, of mode 0600; one that has grown too long is put aside,
and the last few are kept. Where the disk is full the service goes on, and says so once; what was lost is counted.

There is no secret in it: of a token only its SHA-256. What is left out, :mod:`hpcserve.core.floods` decides.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from hpcserve.auth.private import private_directory
from hpcserve.core.floods import Floods
from hpcserve.errors import HpcserveError

_log = logging.getLogger(__name__)

MAX_BYTES = 16 << 20
"""A file that is longer is put aside."""
KEPT = 8
"""So many that were put aside stay: with the one that grows, at most 144 MiB of each process."""
MOST_CHARACTERS = 500
"""Of what a caller has written itself: a name, an object."""
ASKING = frozenset({"call", "see", "hello"})
"""The actions that change nothing."""
PUT_OUT = "put-out"
"""The action that is a change though it is an end of what was allowed: never left out."""
STRANGERS = object()
"""All of whom neither an id nor a name is known: one caller, since keys cost nothing."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One decision.

    ``name``, ``id`` and ``account`` are the caller's, ``key`` its public CURVE key in Z85, ``session`` and ``request``
    what it asked in, ``peer`` the address that it came from where that is known. ``by`` is the rule that decided. All
    that is not known is empty. In the file stand its ``time``, too, and how many lines of the same caller were
    ``left_out``; those of whom neither ``name`` nor ``id`` is known are one caller.
    """

    action: str
    object: str
    allowed: bool
    by: str
    reason: str = ""
    name: str = ""
    id: str = ""
    account: str = ""
    key: str = ""
    token_sha256: str = ""
    session: str = ""
    request: str = ""
    peer: str = ""


def audit_path(state_dir: Path, process: str) -> Path:
    """Where a process of the daemon writes."""
    return state_dir / "audit" / f"{process}.jsonl"


class AuditLog:
    """Appends to one file. May be used by several threads.

    Args:
        path: The file; the directory is made.
        max_bytes: It is put aside when it is longer.
        kept: So many older ones stay.
        floods: What is left out.
    """

    def __init__(
        self, path: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT, floods: Floods | None = None
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._floods = floods or Floods()
        self._lock = threading.Lock()
        self._lost = 0

    def write(self, record: Record) -> None:
        """Appends a line, unless its caller makes too many. Never raises: a daemon serves with a full disk too."""
        with self._lock:
            missing = self._floods.take(
                record.id or record.name or STRANGERS,
                allowed=record.allowed or record.action == PUT_OUT,
                changes=record.action not in ASKING,
                now=time.monotonic(),
            )
            if missing is not None:
                self._put(record, missing)

    def _put(self, record: Record, missing: int) -> None:
        try:
            if self._lost:
                self._append(_line(_gap(self._lost), 0))
                _log.warning("the audit log %s is written again; %d lines are missing", self.path, self._lost)
                self._lost = 0
            self._append(_line(record, missing))
        except (OSError, HpcserveError) as error:
            if not self._lost:
                _log.error("the audit log %s cannot be written, and the service goes on: %s", self.path, error)
            self._lost += 1 + missing

    def _append(self, line: bytes) -> None:
        private_directory(self.path.parent)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            # What was begun when the disk was full, by this process or one before it, is not to spoil this line.
            whole = line if _ends_a_line(descriptor) else b"\n" + line
            written = os.write(descriptor, whole)
            if written < len(whole):
                raise OSError(f"only {written} of {len(whole)} bytes were written")
            size_bytes = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        if size_bytes > self._max_bytes:
            self._put_aside()

    def _put_aside(self) -> None:
        for number in range(self._kept, 1, -1):
            older = self.path.with_name(f"{self.path.name}.{number - 1}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number}"))
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))


def _ends_a_line(descriptor: int) -> bool:
    size_bytes = os.fstat(descriptor).st_size
    return not size_bytes or os.pread(descriptor, 1, size_bytes - 1) == b"\n"


def _line(record: Record, missing: int) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {name: _short(value) for name, value in msgspec.structs.asdict(record).items()}
    return msgspec.json.encode({"time": now, **known, "left_out": missing}) + b"\n"


def _short(value: object) -> object:
    return value[:MOST_CHARACTERS] if isinstance(value, str) else value


def _gap(lost: int) -> Record:
    return Record(
        action="audit", object="", allowed=True, by="", reason=f"{lost} lines are missing: they could not be written"
    )
