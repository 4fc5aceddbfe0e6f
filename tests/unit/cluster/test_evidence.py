"""What slurmstepd writes into a job's output, as Slurm 22.05 wrote it on the box, says why the job ended."""

from __future__ import annotations

import pytest

from hpcserve.cluster.evidence import MOST_LINES, evidence

STEP = "slurmstepd-node1: error: StepId=1.batch exceeded memory limit (115286016 > 104857600), being killed"
JOB = "slurmstepd-node1: error: Exceeded job memory limit"
CANCELLED = "slurmstepd-node1: error: *** JOB 1 ON node1 CANCELLED AT 2026-11-21T19:54:39 ***"
PREEMPTED = "slurmstepd: error: *** JOB 1 ON node1 CANCELLED AT 2026-11-21T19:54:39 DUE TO PREEMPTION ***"
TIME_LIMIT = "slurmstepd: error: *** JOB 1 ON node1 CANCELLED AT 2026-11-21T19:54:39 DUE TO TIME LIMIT ***"


@pytest.mark.parametrize(
    ("lines", "kind", "shown"),
    [
        ([], "", []),
        (["the agent says", "nothing of this"], "", []),
        ([CANCELLED], "cancelled", [CANCELLED]),
        ([TIME_LIMIT, "a last word"], "walltime", [TIME_LIMIT]),
        ([PREEMPTED], "preempted", [PREEMPTED]),
        ([STEP, JOB, CANCELLED, STEP, JOB], "out of memory", [JOB, STEP, JOB]),
        ([STEP, JOB, CANCELLED], "out of memory", [STEP, JOB]),
        ([CANCELLED, STEP, JOB], "out of memory", [STEP, JOB]),
        ([STEP, TIME_LIMIT], "walltime", [TIME_LIMIT]),
        ([PREEMPTED, CANCELLED], "cancelled", [CANCELLED]),  # a requeued job appends to its output
    ],
)
def test_the_last_words_decide_and_a_job_that_is_killed_for_its_memory_was_not_cancelled(
    lines: list[str], kind: str, shown: list[str]
) -> None:
    assert evidence("\n".join(lines)) == (kind, "\n".join(shown))
    assert len(shown) <= MOST_LINES
