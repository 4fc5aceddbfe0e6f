"""``python -m tests.integration.pbs.bad_day WHAT…``: something goes wrong with the stand-in whose ``qstat`` is found.

For the shell that ``python -m tests.integration.pbs -- bash`` begins. What tests do stands in
:class:`~tests.integration.pbs.server.PbsServer`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.integration.pbs.server import PbsServer

_FAULTS = ("down", "hang", "half", "nothing", "garbage", "silent", "banner")
_COMMANDS = ("all", "qsub", "qstat", "qselect", "qdel", "pbsnodes")
_BANNER = "*** The stand-in will be down for maintenance on Monday ***"
_JOBS: dict[str, tuple[Callable[[PbsServer, str], None], str]] = {
    "requeue": (PbsServer.requeue, "put a job back into the queue, as qrerun or a preemption does"),
    "suspend": (PbsServer.suspend, "stop a job, as a preemption may"),
    "resume": (PbsServer.resume, "let it go on"),
    "hold": (PbsServer.hold, "qhold: a queued job does not start"),
    "release": (PbsServer.release, "qrls: it may"),
}
_OF_STATE = {"requeue": "R", "suspend": "R", "resume": "S", "hold": "Q", "release": "H"}
"""In which states a job has to be for that."""
_NODES: dict[str, tuple[Callable[[PbsServer, int], None], str]] = {
    "lose": (PbsServer.lose_node, "a node, by its number from 0, loses its power"),
    "restore": (PbsServer.restore_node, "it is there again"),
}
_SERVER: dict[str, tuple[Callable[[PbsServer], None], str]] = {
    "mend": (PbsServer.mend, "no command misbehaves any more"),
    "restart": (PbsServer.restart, "the server comes up again; what runs goes on"),
    "restart-immediate": (lambda server: server.restart(stopped="immediate"), "the same, and what ran is queued again"),
    "no-history": (lambda server: server.set(history=False), "jobs that have ended are forgotten"),
    "start-nothing": (lambda server: server.set(started=False), "jobs stay queued"),
    "start": (lambda server: server.set(started=True), "they start again"),
}


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.pbs.bad_day", description="A bad day of PBS.")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name in _FAULTS:
        made = what.add_parser(name, help=f"a command is {name}: see tests/fakes/pbs_stand_in/faults.py")
        made.add_argument("command", nargs="?", choices=_COMMANDS, default="all")
    for name, (_, told) in _JOBS.items():
        what.add_parser(name, help=told).add_argument("job", help="its whole id, as qsub printed it")
    for name, (_, told) in _NODES.items():
        what.add_parser(name, help=told).add_argument("node", type=int)
    for name, (_, told) in _SERVER.items():
        what.add_parser(name, help=told)
    arguments = parser.parse_args()
    found = shutil.which("qstat")
    place = None if found is None else Path(found).parent.parent
    if place is None or not (place / "state.json").exists():
        parser.error("no stand-in is found; begin one: python -m tests.integration.pbs -- bash")
    _do(PbsServer.at(place), arguments)
    return 0


def _do(server: PbsServer, asked: argparse.Namespace) -> None:
    if asked.what in _FAULTS:
        server.fault(asked.command, asked.what, text=_BANNER)
    elif asked.what in _JOBS:
        if asked.job not in server.jobs():
            sys.exit(f"no job {asked.job}; there are: {', '.join(server.jobs()) or 'none'}")
        state = server.jobs()[asked.job]["state"]
        if asked.what in _OF_STATE and state not in _OF_STATE[asked.what]:
            sys.exit(
                f"job {asked.job} is in state {state}; to {asked.what} it takes {' or '.join(_OF_STATE[asked.what])}"
            )
        _JOBS[asked.what][0](server, asked.job)
    elif asked.what in _NODES:
        try:
            _NODES[asked.what][0](server, asked.node)
        except IndexError:
            sys.exit(f"no node {asked.node}; they are counted from 0")
    else:
        _SERVER[asked.what][0](server)


if __name__ == "__main__":
    sys.exit(main())
