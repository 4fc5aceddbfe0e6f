"""The table of how a replica can end."""

import pytest

from hpcserve.pilot.outcome import Outcome, outcome
from hpcserve.wire.launch import ReplicaSays

READY = ReplicaSays(state="ready")
FAILED = ReplicaSays(state="failed", cause="ValueError: no", traceback="Traceback")
MUTE = ReplicaSays(state="failed", cause="ValueError: no")


@pytest.mark.parametrize(
    ("exit_code", "said", "stopped", "timed_out", "expected"),
    [
        (1, None, "", "", Outcome("failed", "exit code 1 before its setup was done", "log")),
        (0, None, "", "", Outcome("failed", "exit code 0 before its setup was done", "log")),
        (-9, None, "", "", Outcome("failed", "killed by signal 9 (SIGKILL) before its setup was done", "log")),
        (-9, None, "slow", "slow", Outcome("failed", "slow", "log")),
        (1, FAILED, "", "", Outcome("failed", "ValueError: no", "Traceback")),
        (-9, FAILED, "stopped", "", Outcome("failed", "ValueError: no", "Traceback")),
        (1, MUTE, "", "", Outcome("failed", "ValueError: no", "log")),
        (0, None, "stopped as ordered", "", Outcome("exited", "stopped as ordered (exit code 0)")),
        (0, READY, "stopped as ordered", "", Outcome("exited", "stopped as ordered (exit code 0)")),
        (-11, READY, "", "", Outcome("exited", "killed by signal 11 (SIGSEGV)", "log")),
        (0, READY, "", "", Outcome("exited", "exit code 0", "log")),
    ],
)
def test_every_end(exit_code: int, said: ReplicaSays | None, stopped: str, timed_out: str, expected: Outcome) -> None:
    assert outcome(exit_code, said, stopped=stopped, timed_out=timed_out, last_lines="log") == expected
