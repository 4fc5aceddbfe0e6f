"""A transfer or delete task: what is known of it, and how it goes from one state to the next. No clock, no files.

A task is ACTIVE until it SUCCEEDED or FAILED, and INACTIVE while credentials are expired. What goes wrong on the way
is a fault: the task stays ACTIVE, says so in ``nice_status``, and tries again until its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

DEADLINE_S = 86_400.0
OK, QUEUED = "OK", "Queued"


class Status(Enum):
    """As ``status`` of a task says it."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


UNFINISHED = frozenset({Status.ACTIVE, Status.INACTIVE})

# Codes of events and of ``nice_status``. Globus's developers have listed them; which of them is given when is assumed
# for the destination that is a directory, or lies below a file.
FILE_NOT_FOUND = "FILE_NOT_FOUND"
PERMISSION_DENIED = "PERMISSION_DENIED"
IS_A_DIRECTORY = "IS_A_DIRECTORY"
NOT_A_DIRECTORY = "NOT_A_DIRECTORY"
QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
VERIFY_CHECKSUM = "VERIFY_CHECKSUM"
ENDPOINT_ERROR = "ENDPOINT_ERROR"
CONNECT_FAILED = "CONNECT_FAILED"
GC_NOT_CONNECTED = "GC_NOT_CONNECTED"


@dataclass(frozen=True)
class Event:
    """One line of a task's ``event_list``. ``at``: seconds since 1970."""

    code: str
    at: float
    details: str
    is_error: bool = False


@dataclass(frozen=True)
class Side:
    """The source or the destination, by id and display name."""

    id: str
    name: str


@dataclass
class Task:
    """A task. ``document`` is what was submitted; times are seconds since 1970; a lock is the caller's."""

    id: str
    owner: str
    document: dict[str, Any]
    requested: float
    deadline: float
    source: Side
    destination: Side | None = None
    status: Status = Status.ACTIVE
    nice: str = QUEUED
    nice_details: str | None = None
    completed: float | None = None
    inactive_since: float | None = None
    fatal: tuple[str, str] | None = None
    faults: int = 0
    files: int = 0
    directories: int = 0
    files_skipped: int = 0
    errors_skipped: int = 0
    files_moved: int = 0
    bytes_moved: int = 0
    bytes_checksummed: int = 0
    symlinks: int = 0
    ended_as: str = ""
    events: list[Event] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)

    @property
    def unfinished(self) -> bool:
        """Whether there is something left to come."""
        return self.status in UNFINISHED

    def anew(self) -> Task:
        """The same as it was submitted, and what happened to it."""
        return Task(
            id=self.id,
            owner=self.owner,
            document=self.document,
            requested=self.requested,
            deadline=self.deadline,
            source=self.source,
            destination=self.destination,
            faults=self.faults,
            events=self.events,
        )

    def start(self, now: float) -> None:
        """Its turn has come, after others of its owner's."""
        if self.unfinished and self.nice == QUEUED:
            self.nice = OK
            self._event("STARTED", now, "started")

    def fault(self, code: str, details: str, now: float) -> None:
        """Something went wrong and will be tried again."""
        if self.status is Status.ACTIVE:
            self.faults += 1
            self.nice, self.nice_details = code, details
            self._event(code, now, details, is_error=True)

    def recover(self) -> None:
        """What was wrong is over."""
        if self.status is Status.ACTIVE and self.nice != QUEUED:
            self.nice, self.nice_details = OK, None

    def suspend(self, now: float) -> None:
        """Credentials expired: nothing goes on until somebody logs in again."""
        if self.status is Status.ACTIVE:
            self.status, self.inactive_since = Status.INACTIVE, now
            self.nice_details = "the credentials of an endpoint have expired: log in again"
            self._event("AUTH", now, self.nice_details, is_error=True)

    def resume(self) -> None:
        """Somebody has logged in again."""
        if self.status is Status.INACTIVE:
            self.status, self.inactive_since, self.nice_details = Status.ACTIVE, None, None

    def succeed(self, now: float) -> None:
        """All is done."""
        self._end(Status.SUCCEEDED, "SUCCEEDED", "all is done", now)

    def fail(self, code: str, details: str, now: float) -> None:
        """What went wrong is not tried again."""
        if self.unfinished:
            self.fatal = (code, details)
        self._end(Status.FAILED, code, details, now)

    def expire(self, now: float) -> None:
        """Its deadline has passed."""
        self._end(Status.FAILED, "EXPIRED", "the deadline of the task has passed", now)

    def cancel(self, now: float) -> bool:
        """Its owner does not want it any more; False if it had finished."""
        was = self.unfinished
        self._end(Status.FAILED, "CANCELED", "canceled by its owner", now)
        return was

    def _end(self, status: Status, code: str, details: str, now: float) -> None:
        if not self.unfinished:
            return
        self.status, self.completed, self.ended_as, self.nice_details = status, now, code, None
        self._event(code, now, details, is_error=status is Status.FAILED)

    def _event(self, code: str, at: float, details: str, *, is_error: bool = False) -> None:
        self.events.append(Event(code, at, details, is_error))
