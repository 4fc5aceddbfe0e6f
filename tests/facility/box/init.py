"""The first process of a pid namespace. It lives until it is killed, and buries the orphans that come to it.

When it dies, the kernel kills all others of the namespace at once: a power cord.
"""

from __future__ import annotations

import contextlib
import os
import signal


def main() -> None:
    """Waits for children, for ever."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    main()
