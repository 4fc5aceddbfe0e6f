"""What goes wrong with a transfer task that Globus goes on trying: what ends its deliveries at once, and what in time.

A task that is ACTIVE says in ``nice_status`` the code of the event by which it was last in trouble. A code that is not
named here is waited for until the task's deadline: a laptop that is closed, a Globus that is busy.

What is borne for a time is borne from the first fault on, however often it is tried again meanwhile. That time is over
before only where the task gets on: another file is done, or more was sent in all than ever before, but not yet more
than there is, so that none of it need be the same once more; or more was sent since the last fault than ever before
between two faults of what is not done yet. A file that is being sent once more when the time is over is not stopped:
the next fault of it ends the task.

Source: https://docs.globus.org/api/transfer/task_behavior (``nice_status`` of a task in trouble) and the list of all
codes by a developer of Globus, https://groups.google.com/a/globus.org/g/archive-developer-discuss/c/NR2guXS-9SI (2020).
Neither says which of them Globus tries again, nor which a destination gives that is a directory.
"""

from __future__ import annotations

from hpcserve.core.delivery import Progress

_MAY_NOT = "see to it that you may write there, or choose another place"
_OTHER_PLACE = "choose another place"
_SLASH = "a directory lies there: let the place end with a slash, or choose another name"

AT_ONCE = {
    "PERMISSION_DENIED": _MAY_NOT,
    "IS_A_DIRECTORY": _SLASH,
    "NOT_A_FILE": _SLASH,
    "IS_A_FILE": _OTHER_PLACE,
    "NOT_A_DIRECTORY": _OTHER_PLACE,
    "INVALID_PATH_NAME": _OTHER_PLACE,
}
"""No trying again mends these, only their owner; and what helps."""
IN_TIME = frozenset(
    {
        "FILE_NOT_FOUND",
        "QUOTA_EXCEEDED",
        "NO_SPACE_LEFT",
        "LIMIT_EXCEEDED",
        "VERIFY_CHECKSUM",
        "EXTERNAL_CHECKSUM_MISMATCH",
        "FILE_SIZE_CHANGED",
        "AMBIGUOUS_PATH",
        "ENDPOINT_ERROR",
    }
)
"""These may go away by themselves, though nobody comes back: they are borne for ``staging.transfer_faults_s``."""
HELPS = AT_ONCE | dict.fromkeys(("QUOTA_EXCEEDED", "NO_SPACE_LEFT"), "make room there, or choose another place")
"""What its owner can do about what ended a transfer."""


class Bearing:
    """For how long a task has been in trouble that is borne for a time. Seconds of the book's clock.

    Attributes:
        since: When it was first seen without that it got on since then, later by what it waited for something else;
            None: nothing is wrong.
        last: What was said of it when it was seen last.
    """

    def __init__(self) -> None:
        self._most_bytes = 0
        self.since: float | None = None
        self.last: Progress | None = None
        self._looked_s = 0.0
        self._seen = Progress("ACTIVE")
        self._since_bytes = 0
        self._longest_bytes = 0

    def looked(self, progress: Progress, now: float, in_all_bytes: int) -> bool:
        """Globus has told of the task, which has not ended; whether there was a fault of this kind just now.

        ``in_all_bytes``: so much there is to send.
        """
        before, self._seen = self._seen, progress
        passed_s, self._looked_s = now - self._looked_s, now
        struck = progress.faults > before.faults or bool(progress.fault) > bool(before.fault)
        if self._gets_on(before, progress, in_all_bytes, struck=struck):
            self.since = None
        if progress.fault in IN_TIME:
            self.since = now if self.since is None else self.since
            self.last = progress
            return True
        if self.since is not None and (progress.fault or progress.status == "INACTIVE"):
            self.since += passed_s  # nothing is tried meanwhile
            return False
        return self.since is not None and struck

    def _gets_on(self, before: Progress, progress: Progress, in_all_bytes: int, *, struck: bool) -> bool:
        before_bytes, self._most_bytes = self._most_bytes, max(self._most_bytes, progress.size_bytes)
        is_new = before_bytes < progress.size_bytes <= in_all_bytes
        if progress.files > before.files:
            self._since_bytes, self._longest_bytes = progress.size_bytes, 0
            return True
        sent = progress.size_bytes - self._since_bytes
        if struck:
            self._since_bytes, self._longest_bytes = progress.size_bytes, max(sent, self._longest_bytes)
            return is_new
        return is_new or sent > self._longest_bytes
