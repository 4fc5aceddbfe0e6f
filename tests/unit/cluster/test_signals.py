"""The warning that nobody sends. In a process of its own: the timer of a test's time limit is the same one."""

from __future__ import annotations

import subprocess
import sys

import pytest

PATIENCE_S = 60

_PROGRAM = """
import select, signal, sys
from hpcserve.cluster.signals import Signals

noted = Signals(warning=signal.SIGUSR1)
noted.warn_in(float(sys.argv[1]))
if sys.argv[2:]:
    assert not noted.warned
    signal.raise_signal(getattr(signal, sys.argv[2]))
woken = select.select([noted.fileno()], [], [], 60)[0] != []
noted.close()
print(woken, noted.warned, noted.stop, signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM).name)
"""


@pytest.mark.parametrize("arguments", [["0.05"], ["0"], ["-5"], ["3600", "SIGUSR1"]])
def test_the_warning_comes_by_a_timer_or_before_it_and_wakes_a_poll_up(arguments: list[str]) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert told.stdout == "True True  (0.0, 0.0) SIG_DFL\n"
