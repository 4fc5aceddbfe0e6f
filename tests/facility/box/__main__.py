"""``python -m tests.facility.box [--nodes N] -- COMMAND…``: runs a command on the login node of a fresh box."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from types import FrameType

from tests.facility.box.cluster import Box
from tests.facility.box.errors import BoxError
from tests.facility.box.files import LOGIN
from tests.facility.box.machine import lacks
from tests.facility.box.options import Options


def main() -> int:
    """The exit code of the command; of a signal's death, 128 and its number."""
    parser = argparse.ArgumentParser(prog="python -m tests.facility.box", description="A real Slurm, for one command.")
    parser.add_argument("--nodes", type=int, default=4, help="compute nodes, the first two with GPUs (default: 4)")
    parser.add_argument("command", nargs="+", help="what runs on the login node, after --")
    arguments = parser.parse_args()
    missing = lacks()
    if missing:
        print(f"no box on this machine: {missing}", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        return _run(Options(nodes=arguments.nodes), arguments.command)
    except (BoxError, ValueError) as error:
        print(f"the box: {error}", file=sys.stderr)
        return 1


def _leave(number: int, _frame: FrameType | None) -> None:
    # The keeper clears away. An exception, between a process's start and its being noted, would leave one that nobody
    # buries, and for which the end of the box waits for ever.
    os._exit(128 + number)


def _run(options: Options, command: list[str]) -> int:
    began = time.monotonic()
    with Box(options) as box:
        took_s = time.monotonic() - began
        print(f"a Slurm of {options.nodes} nodes is up after {took_s:.1f} s, in {box.directory}", file=sys.stderr)
        # A daemon that the command leaves running ends with the box, and so does its home.
        home = {"HPCSERVE_HOME": str(box.directory / "home")}
        process = box.host(LOGIN).start(command, env=home, stdin=None, own_session=False)
        # A Ctrl-C is the command's business; what it makes of it, it says. It would inherit that we do not heed it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
