"""The exit codes: one table from the error's class."""

from __future__ import annotations

from hpcserve import errors
from hpcserve.cli.streams import OutputLost

OK, FAILED, USAGE, UNAVAILABLE, NOT_ALLOWED, NOT_FOUND, TOO_LATE, IN_THE_WAY, MACHINE, BUG, OUTPUT = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    70,
    74,  # EX_IOERR, as 70 is EX_SOFTWARE. Source: sysexits.h(3head).
)

CODES: dict[type[errors.HpcserveError], int] = {
    errors.HpcserveError: FAILED,
    errors.ConfigError: USAGE,
    errors.ServiceUnavailable: UNAVAILABLE,
    errors.AuthenticationError: NOT_ALLOWED,
    errors.PermissionDenied: NOT_ALLOWED,
    errors.NotFound: NOT_FOUND,
    errors.DeadlineExceeded: TOO_LATE,
    errors.Overloaded: TOO_LATE,
    errors.Conflict: IN_THE_WAY,
    errors.SchedulerError: MACHINE,
    errors.StorageFull: MACHINE,
    OutputLost: OUTPUT,
}
"""A class that is not listed has the code of the nearest class above it."""

MEANING = {
    OK: "done",
    FAILED: "the servable or the request failed",
    USAGE: "wrong usage or configuration",
    UNAVAILABLE: "no daemon answers",
    NOT_ALLOWED: "not allowed, or an unknown key",
    NOT_FOUND: "no such endpoint, servable or other name",
    TOO_LATE: "timed out, or overloaded",
    IN_THE_WAY: "the present state is in the way (another daemon, a port in use)",
    MACHINE: "the batch scheduler refused, or the disk is full",
    BUG: "a bug in hpcserve",
    OUTPUT: "standard output is closed, or its disk is full",
    130: "interrupted by Ctrl-C (143: by SIGTERM)",
    141: "whoever read the output went away",
}

# \b keeps the lines apart where the parser formats the help.
EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANING.items())


def exit_code(error: errors.HpcserveError) -> int:
    """The exit code that stands for ``error``."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
