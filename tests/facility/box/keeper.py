"""Holds a box and clears it away: ``python -m tests.facility.box.keeper DIRECTORY``.

Its standard input is a pipe from whoever started the box. When that ends, because the box is stopped or because its
starter was killed, the keeper kills the box's init, which takes everything with it, and removes the directory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.facility.box.namespaces import only_child

INIT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("init.py")))
NEW_NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL")
FORK_S = 10.0


def init_of(unshare: int) -> int:
    """The pid of the init that ``unshare`` forks.

    Raises:
        TimeoutError: It forked none.
    """
    until = time.monotonic() + FORK_S
    while (init := only_child(unshare)) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"unshare (pid {unshare}) made no namespaces within {FORK_S:g} s")
        time.sleep(0.002)
    return init


def main() -> int:
    """Says the pid of the box's init on standard output, and waits for the end of standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directory = sys.argv[1]
    # Should the keeper itself be killed, the kernel ends unshare, and with it the box.
    held = ("setpriv", "--pdeathsig=KILL", *NEW_NAMESPACES, "--mount-proc", *INIT)
    with subprocess.Popen(held, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as unshare:
        try:
            init = init_of(unshare.pid)
            print(init, flush=True)
            sys.stdin.read()
            os.kill(init, signal.SIGKILL)
        except (OSError, TimeoutError) as error:
            print(f"the box's keeper: {error}", file=sys.stderr)
            unshare.kill()
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
