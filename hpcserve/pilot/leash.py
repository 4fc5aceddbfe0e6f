"""Ties a process that this one starts to its own life, whatever program it is: a SIGKILL of this one kills it too.

Linux does that for who asks for it, across ``exec``. So this file is run as a script, in an interpreter that loads
nothing else: it asks, and becomes the program.
"""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import sys
from collections.abc import Sequence


def leashed(argv: Sequence[str]) -> tuple[str, ...]:
    """The command that runs ``argv`` so that it is killed as soon as the caller has ended.

    Args:
        argv: The command; its first word is looked up in PATH.

    Raises:
        FileNotFoundError: There is no such command.
    """
    from hpcserve.servable import lifetime  # not in the script, which sees no package

    program = shutil.which(argv[0])
    if program is None:
        raise FileNotFoundError(2, os.strerror(2), argv[0])
    return (sys.executable, "-I", "-S", __file__, lifetime.__file__, str(os.getpid()), program, *argv[1:])


def main() -> None:
    """Becomes the program that the arguments name."""
    lifetime, parent, *argv = sys.argv[1:]
    runpy.run_path(lifetime)["die_with_parent"]()
    if os.getppid() != int(parent):  # it died before we had asked
        sys.exit(1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so
        signal.signal(number, signal.SIG_DFL)
    os.execv(argv[0], argv)  # noqa: S606  # what the caller would have started itself


if __name__ == "__main__":
    main()
