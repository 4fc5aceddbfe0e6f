"""What goes wrong with a transfer task that Globus goes on trying: what ends its deliveries at once, and what in time.

A task that is ACTIVE says in ``nice_status`` the code of the event by which it was last in trouble. A code that is not
named here is waited for until the task's deadline: a laptop that is closed, a Globus that is busy.

Source: https://docs.globus.org/api/transfer/task_behavior (``nice_status`` of a task in trouble) and the list of all
codes by a developer of Globus, https://groups.google.com/a/globus.org/g/archive-developer-discuss/c/NR2guXS-9SI (2020).
Neither says which of them Globus tries again, nor which a destination gives that is a directory.
"""

from __future__ import annotations

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
