"""The table of how a replica can end."""

import pytest

from hpcserve.cluster.seam import LaunchEnd
from hpcserve.pilot.outcome import EVIDENCE_BYTES, NOT_STOPPED, Outcome, Stop, hopeless, outcome
from hpcserve.wire.launch import ReplicaSays

READY = ReplicaSays(state="ready")
FAILED = ReplicaSays(state="failed", cause="ValueError: no", traceback="Traceback")
MUTE = ReplicaSays(state="failed", cause="ValueError: no")
GREEDY = ReplicaSays(state="failed", cause="setup failed: MemoryError", traceback="Traceback")
ASKED = Stop("stopped as ordered")
WALLTIME = Stop("the walltime is used up", "walltime")


def crashed(state: str, cause: str, traceback: str = "log") -> Outcome:
    return Outcome(state, cause, traceback, "crashed", "log")


@pytest.mark.parametrize(
    ("exit_code", "said", "stopped", "given_up", "expected"),
    [
        (1, None, NOT_STOPPED, "", crashed("failed", "exit code 1 before its setup was done")),
        (0, None, NOT_STOPPED, "", crashed("failed", "exit code 0 before its setup was done")),
        (-9, None, NOT_STOPPED, "", crashed("failed", "killed by signal 9 (SIGKILL) before its setup was done")),
        (-9, None, Stop("slow"), "slow", crashed("failed", "slow")),
        (1, FAILED, NOT_STOPPED, "", crashed("failed", "ValueError: no", "Traceback")),
        (-9, FAILED, ASKED, "", crashed("failed", "ValueError: no", "Traceback")),
        (1, MUTE, NOT_STOPPED, "", crashed("failed", "ValueError: no")),
        (0, None, ASKED, "", Outcome("exited", "stopped as ordered (exit code 0)")),
        (0, READY, ASKED, "", Outcome("exited", "stopped as ordered (exit code 0)")),
        (
            -9,
            READY,
            WALLTIME,
            "",
            Outcome("exited", "the walltime is used up (killed by signal 9 (SIGKILL))", kind="walltime"),
        ),
        (-11, READY, NOT_STOPPED, "", crashed("exited", "killed by signal 11 (SIGSEGV)")),
        (0, READY, NOT_STOPPED, "", crashed("exited", "exit code 0")),
    ],
)
def test_every_end(exit_code: int, said: ReplicaSays | None, stopped: Stop, given_up: str, expected: Outcome) -> None:
    found = outcome(
        LaunchEnd(exit_code), said, stopped=stopped, given_up=given_up, last_lines="log", out_of_memory=False
    )
    assert found == expected


@pytest.mark.parametrize(
    ("end", "said", "last_lines", "killed_for_memory", "kind", "cause"),
    [
        (LaunchEnd(-9), READY, "log", True, "out of memory", "out of memory (killed by signal 9 (SIGKILL))"),
        (LaunchEnd(-9), READY, "log", False, "crashed", "killed by signal 9 (SIGKILL)"),
        (LaunchEnd(1), READY, "Traceback\nMemoryError", False, "out of memory", "out of memory (exit code 1)"),
        (
            LaunchEnd(1),
            READY,
            "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 TiB",
            False,
            "out of memory",
            "out of memory (exit code 1)",
        ),
        (
            LaunchEnd(1),
            READY,
            "torch.AcceleratorError: CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`",
            False,
            "out of memory",
            "out of memory (exit code 1)",
        ),
        (LaunchEnd(1), READY, "MemoryError\nValueError: later", False, "crashed", "exit code 1"),
        (LaunchEnd(3), GREEDY, "log", False, "out of memory", "setup failed: MemoryError"),
        (LaunchEnd(0, "node failed", "srun says"), READY, "log", False, "node failed", "its node failed"),
        (
            LaunchEnd(1, "unreachable", "srun says"),
            None,
            "log",
            False,
            "unreachable",
            "the scheduler did not answer the launcher (exit code 1) before its setup was done",
        ),
        (LaunchEnd(-9, "preempted", "step says"), READY, "log", True, "preempted", "killed by signal 9 (SIGKILL)"),
    ],
)
def test_every_loss_has_its_kind(
    *, end: LaunchEnd, said: ReplicaSays | None, last_lines: str, killed_for_memory: bool, kind: str, cause: str
) -> None:
    found = outcome(end, said, stopped=NOT_STOPPED, given_up="", last_lines=last_lines, out_of_memory=killed_for_memory)
    assert (found.kind, found.cause) == (kind, cause)
    assert found.evidence == (end.evidence or last_lines)


def test_evidence_is_bounded_and_whole_characters() -> None:
    log = "\n".join(f"{number} " + "ä" * 700 for number in range(40))
    found = outcome(LaunchEnd(1), READY, stopped=NOT_STOPPED, given_up="", last_lines=log, out_of_memory=False)
    assert EVIDENCE_BYTES - 2 <= len(found.evidence.encode()) <= EVIDENCE_BYTES
    assert log.endswith(found.evidence)


@pytest.mark.parametrize(
    ("exit_code", "lines", "cause"),
    [
        (
            94,
            "hpcserve cannot run here: first\nhpcserve cannot run here: no module x\nsrun: error: exit code 94",
            "no module x",
        ),
        (94, "ended", "exit code 94 before its setup was done"),
        (1, "hpcserve cannot run here: no module x", "exit code 1 before its setup was done"),
    ],
)
def test_an_environment_that_is_not_fit_says_why(exit_code: int, lines: str, cause: str) -> None:
    ended = outcome(LaunchEnd(exit_code), None, stopped=NOT_STOPPED, given_up="", last_lines=lines, out_of_memory=False)
    assert ended.cause == cause
    assert ended.traceback == lines
    assert ended.lasting == (cause == "no module x")


def test_what_would_fail_in_the_same_way_is_said() -> None:
    said = ReplicaSays(state="failed", cause="no GPU", lasting=True)
    ended = outcome(LaunchEnd(3), said, stopped=NOT_STOPPED, given_up="", last_lines="", out_of_memory=False)
    assert (ended.cause, ended.lasting) == ("no GPU", True)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("warning\nhpcserve cannot run here: python lacks pyzmq\nmore\n", "python lacks pyzmq"),
        ("hpcserve cannot run here: python lac", ""),
        ("hpcserve: rank 0 loads 40 GB of weights\n", ""),
        ("FATAL:   no such image\n", "the container did not start: no such image"),
        ("FATAL: of a program\n", ""),
        (
            "image a.sif: not signed by the key k, as\n",
            "the container did not start: image a.sif: not signed by the key k, as",
        ),
        ("", ""),
    ],
)
def test_of_ranks_that_will_never_start_one_line_tells(output: str, why: str) -> None:
    assert hopeless(output, contained=True) == why


def test_what_a_database_says_is_no_container_s_word() -> None:
    assert hopeless('FATAL:  database "mlflow" does not exist\n', contained=False) == ""
