"""``python -m hpcserve.testing.globus DIRECTORY``: a stand-in to try things with, until Ctrl-C.

It prints ``export`` lines for the programs that are to use it. In the directory it leaves ``site.toml``, a site file
for a daemon that uses it, the client secret that this names, and the files of two collections: a facility's and a
laptop's. Started there again, it has the same ids, if it is free the same port, and goes on with its transfers.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

LOOK_S = 0.5


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m hpcserve.testing.globus", description=__doc__)
    parser.add_argument("directory", type=Path, help="a directory of yours alone, made if it is not there")
    parser.add_argument("--gridftp", action="store_true", help="move bytes by GridFTP servers, and not by a plain copy")
    chosen = parser.parse_args(arguments)
    try:
        from hpcserve.testing.globus.furnished import InUse, furnished
        from hpcserve.testing.globus.gridftp import GridftpMover
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: it needs {error.name}, which is not installed; pip install 'hpcserve[globus]'\n")
        return 2
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with furnished(chosen.directory.resolve(), GridftpMover() if chosen.gridftp else None) as globus:
            for name, value in globus.environment.items():
                sys.stdout.write(f"export {name}={value}\n")
            sys.stdout.flush()
            while not stopped.wait(LOOK_S):  # a signal that comes just before a wait does not end it
                pass
    except (InUse, FileExistsError, NotADirectoryError, PermissionError) as error:
        said = f"{error.filename}: {error.strerror}; name a directory of yours" if isinstance(error, OSError) else error
        sys.stderr.write(f"error: {said}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
