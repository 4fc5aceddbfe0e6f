"""Why a pilot ended, from the scheduler's word, its exit code and what its job printed."""

from __future__ import annotations

import pytest

from hpcserve.cluster.script import SETUP_FAILED
from hpcserve.cluster.seam import JobEnd, JobState
from hpcserve.daemon.controller.ends import pilot_end
from hpcserve.types import LossKind
from hpcserve.wire import exits

OOM = "slurmstepd: error: Exceeded job memory limit\n"
SETUP = "x: command not found\nhpcserve: a setup command of site s failed with exit code 127: x\n"
NO_PYTHON = "script: line 20: /x/python: No such file or directory\n"
NO_MODULE = "/x/python: Error while finding module specification (ModuleNotFoundError: No module named 'hpcserve')\n"
WIRE = "12:00 ending: the daemon refuses this pilot: no common wire version: a speaks [0], b speaks [1]; upgrade a\n"


@pytest.mark.parametrize(
    ("end", "code", "output", "kind", "said"),
    [
        ("failed", SETUP_FAILED, SETUP, "crashed", "a setup command of site s failed with exit code 127: x"),
        ("failed", SETUP_FAILED, "", "crashed", "FAILED"),
        ("failed", 1, "", "crashed", "exit code 1 (FAILED)"),
        (
            "failed",
            127,
            NO_PYTHON,
            "crashed",
            "/x/python: No such file or directory; compute nodes need",
        ),
        ("failed", 1, NO_MODULE, "crashed", "No module named 'hpcserve'); compute nodes need pilots.python"),
        ("failed", None, OOM, "out of memory", "Exceeded job memory limit; raise pilots.memory_per_node_mib"),
        ("failed", exits.VERSION_MISMATCH, WIRE, "version mismatch", "version mismatch: no common wire version: a"),
        ("out of memory", None, "", "out of memory", "FAILED"),
        ("walltime", None, OOM, "walltime", "FAILED"),
    ],
)
def test_the_end_of_a_pilot_in_words(end: JobEnd, code: int | None, output: str, kind: LossKind, said: str) -> None:
    found = pilot_end(JobState(phase="ended", end=end, cause="FAILED", exit_code=code), output)
    assert found[0] == kind
    assert said in found[1]


@pytest.mark.parametrize("cause", ["", "killed by signal 9 (SIGKILL)"])
def test_what_the_exit_code_and_the_scheduler_both_say_is_said_once(cause: str) -> None:
    found = pilot_end(JobState(phase="ended", end="failed", cause=cause, exit_code=-9), "")
    assert found[1] == "killed by signal 9 (SIGKILL)"


def test_an_exit_code_is_said_once() -> None:
    cause = "its script: exit code 137; PBS says: Job run at Sun"
    assert pilot_end(JobState(phase="ended", end="failed", exit_code=137, cause=cause), "") == ("crashed", cause)
