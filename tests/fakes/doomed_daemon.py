"""A daemon that dies by SIGKILL right before a step: ``doomed_daemon.py EVENT NAME NTH ARGUMENTS``.

EVENT is one of Python's audit events, of which one argument is the path of a file called NAME or NAME-SOMETHING; it is
the NTH that kills. What the daemon starts is not affected.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import PurePath

from hpcserve.daemon.__main__ import main


def install(event: str, name: str, nth: int) -> None:
    """Makes this process die there."""
    left = nth

    def hear(heard: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if heard != event:
            return
        paths = [os.fsdecode(each) for each in arguments if isinstance(each, (str, bytes, os.PathLike))]
        if any(PurePath(path).name.startswith(name) for path in paths):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


if __name__ == "__main__":
    install(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    del sys.argv[1:4]
    sys.exit(main())
