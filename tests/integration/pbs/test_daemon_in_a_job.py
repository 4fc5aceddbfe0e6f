"""A daemon that is itself a job of the stand-in for PBS, which warns nobody: it knows itself when its end is near."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.integration.daemon_tree import until
from tests.integration.pbs.conftest import NewDaemonOnPbs
from tests.integration.pbs.daemon import LONG_S, DaemonOnPbs
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(600)

WALLTIME_S, WARN_S, BEFORE_S = 40, 15, 16
"""The daemon begins ``BEFORE_S`` after its job; did it count from there, its warning would come after its end."""


def cli(daemon: DaemonOnPbs, *words: str) -> str:
    """What a command of the user's prints, which has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "hpcserve.cli.main", *words],
        env=os.environ | daemon.variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_daemon_in_a_job_hands_over_before_its_walltime(pbs: PbsServer, new_daemon_on_pbs: NewDaemonOnPbs) -> None:
    setup = ["export PATH=$PATH:$PBS_EXEC/bin", f"sleep {BEFORE_S}"]  # the first as a site's profile does
    in_a_job = {"placement": "job", "walltime_s": float(WALLTIME_S), "warn_s": float(WARN_S)}
    daemon = new_daemon_on_pbs(daemon=in_a_job, pilots={"setup": setup})
    cli(daemon, "up", "--detach")
    (first,) = pbs.jobs()
    until(lambda: len(pbs.jobs()) == 2, "the next one is submitted", LONG_S)
    ended = pbs.reaches(first, "F")
    assert ended["exit_status"] == 0, "it left before PBS would have ended it"
    (second,) = pbs.jobs().keys() - {first}
    until(daemon.record.exists, "the next one serves", LONG_S)
    cli(daemon, "down")
    pbs.reaches(second, "F")
