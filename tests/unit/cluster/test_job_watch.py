"""What is remembered of jobs between polls."""

from __future__ import annotations

import pytest

from hpcserve.cluster.job_watch import FORGOTTEN_AFTER_S, Watch
from hpcserve.cluster.seam import JobId, JobState

ONE, OTHER = JobId("1"), JobId("2")


RUNS = {ONE: JobState(phase="running", host="node1")}


def test_a_job_is_forgotten_when_nobody_has_asked_about_it_for_long() -> None:
    watch = Watch()
    watch.asked([ONE], 1000.0)
    assert watch.told([ONE], RUNS, 1000.0) == []
    watch.asked([OTHER], 999.0 + FORGOTTEN_AFTER_S)
    assert watch[ONE].host == "node1"
    watch.asked([OTHER], 1000.0 + FORGOTTEN_AFTER_S)
    with pytest.raises(KeyError):
        watch[ONE]


def test_a_job_that_is_asked_about_again_after_a_long_silence_is_remembered() -> None:
    watch = Watch()
    watch.asked([ONE], 0.0)
    watch.told([ONE], RUNS, 0.0)
    watch.asked([ONE], 10 * FORGOTTEN_AFTER_S)
    assert (watch[ONE].host, watch[ONE].seen) == ("node1", True)


def test_no_job_is_forgotten_while_slurm_does_not_answer_about_it() -> None:
    watch = Watch()
    watch.asked([ONE], 0.0)
    watch.told([ONE], RUNS, 0.0)
    for half in range(1, 5):
        watch.asked([ONE], half * FORGOTTEN_AFTER_S / 2)  # and no answer
    watch.asked([OTHER], 2 * FORGOTTEN_AFTER_S)
    assert watch[ONE].host == "node1"
