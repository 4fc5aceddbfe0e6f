"""``python -m tests.integration.pbs [--nodes N] -- COMMAND…``: runs a command beside a fresh stand-in for PBS.

The command finds ``qsub`` and the others in its PATH, and a home of its own with a site ``stand-in``. All of it is gone
when the command has ended, a daemon that it left running, too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.integration.pbs.server import PbsServer

HPCSERVE = [sys.executable, "-m", "hpcserve.cli.main"]
SITE = """\
base = "pbs"
shared_dir = "{place}/shared"

[network]
host = "127.0.0.1"

[scheduler]
poll_s = 0.5
poll_max_s = 2
submit_per_min = 600

[pilots]
partition = "workq"
walltime_s = 600
slots = 4
max_pilots = 4
idle_s = 20
orphan_s = 60
queue_wait_s = 5
"""


def main() -> int:
    """The exit code of the command; of a signal's death, 128 and its number."""
    told = "A stand-in for a PBS server, for one command; it really runs the jobs, on this machine."
    parser = argparse.ArgumentParser(prog="python -m tests.integration.pbs", description=told)
    parser.add_argument("--nodes", type=int, default=4, help="virtual nodes of two processors (default: 4)")
    parser.add_argument("command", nargs="+", help="what runs, after --")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="hpcserve-pbs-", ignore_cleanup_errors=True) as directory:
        return _run(Path(directory), arguments.nodes, arguments.command)


def _run(place: Path, nodes: int, command: list[str]) -> int:
    home = place / "home"
    home.mkdir(mode=0o700)
    (home / "sites").mkdir(mode=0o700)
    (home / "sites" / "stand-in.toml").write_text(SITE.format(place=place))
    server = PbsServer(place / "pbs", nodes=nodes)
    environment = os.environ | {"PATH": server.path, "HPCSERVE_HOME": str(home), "HPCSERVE_SITE": "stand-in"}
    print(f"a stand-in for PBS of {nodes} nodes is up, in {place}; hpcserve's site is stand-in", file=sys.stderr)
    # A Ctrl-C is the command's business; what it makes of it, it says.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = subprocess.run(command, env=environment, check=False, preexec_fn=_heeds_ctrl_c).returncode
        return code if code >= 0 else 128 - code
    finally:
        _take_down(environment, place)
        server.close()


def _heeds_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _take_down(environment: Mapping[str, str], place: Path) -> None:
    if (place / "shared" / "service.json").exists():
        subprocess.run([*HPCSERVE, "down"], env=environment, check=False)


if __name__ == "__main__":
    sys.exit(main())
