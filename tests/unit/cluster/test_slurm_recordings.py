"""What the recorded answers of two generations of Slurm tell beyond a job's state, and what damage does to them.

That each recording is read, and none as a wrong state, is in ``test_slurm_answers.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.cluster import slurm_json, slurm_text
from hpcserve.cluster.seam import JobId, JobState
from hpcserve.cluster.slurm import former_end, state_of
from hpcserve.cluster.slurm_commands import HISTORY_TEXT, QUEUE_TEXT
from hpcserve.cluster.slurm_jobs import SlurmJob
from hpcserve.errors import SchedulerError
from tests.unit.cluster.slurm_recorded import (
    RELEASES,
    asked_id,
    history_in_our_columns,
    named,
    queue_in_our_columns,
    recording,
    subject,
)

# What each recording was made to show: as slurmctld tells it, phase and end.
QUEUE = {
    "cancelled": ("ended", "cancelled"),
    "cancelled_pending": ("ended", "cancelled"),
    "completed": ("ended", "completed"),
    "failed": ("ended", "failed"),
    "failed_signal": ("ended", "failed"),
    "node_fail": ("ended", "node failed"),
    "node_fail_requeued": ("queued", None),
    "pending_begintime": ("queued", None),
    "pending_dependency": ("queued", None),
    "pending_dependency_never": ("queued", None),
    "pending_held": ("queued", None),
    "pending_resources": ("queued", None),
    "pending_time_over_limit": ("queued", None),
    "preempted": ("ended", "preempted"),
    "requeued_by_preemption": ("queued", None),
    "running": ("running", None),
    "running_v0.0.42": ("running", None),
    "timeout": ("ended", "walltime"),
}
# Accounting tells the same, but just after a requeue 22.05's has only the run before.
HISTORY = {
    "22.05": QUEUE | {"node_fail_requeued": ("ended", "node failed"), "requeued_by_preemption": ("ended", "preempted")},
    "25.11": QUEUE,
}
EXIT_CODES = {"completed": 0, "failed": 7, "failed_signal": -11}


def kept(jobs: list[SlurmJob], job: str) -> SlurmJob:
    (found,) = [one for one in jobs if one.job == job]
    return found


def queue_of(answer: dict[str, Any], name: str) -> list[SlurmJob]:
    if "_json_" in name:
        return slurm_json.parse_queue(answer["stdout"].encode())
    return slurm_text.parse_queue(queue_in_our_columns(answer["stdout"]), now_s=0)


def history_of(answer: dict[str, Any], name: str) -> list[SlurmJob]:
    if "_json_" in name:
        return slurm_json.parse_history(answer["stdout"].encode())
    return slurm_text.parse_history(history_in_our_columns(answer["stdout"]))


def told(state: JobState) -> tuple[str, str | None]:
    return state.phase, state.end


@pytest.mark.parametrize(("release", "name"), [one for one in named("squeue_") if subject(one[1]) in QUEUE])
def test_slurmctlds_answer_is_read_as_what_happened(release: str, name: str) -> None:
    answer = recording(release, name)
    jobs = queue_of(answer, name)
    if "default_states" in name and QUEUE[subject(name)][0] == "ended":
        assert jobs == []
        return
    state = state_of(kept(jobs, asked_id(answer)))
    assert told(state) == QUEUE[subject(name)]
    if "_json_" in name:
        assert state.exit_code == EXIT_CODES.get(subject(name))
        assert state.restarts == (1 if "requeued" in name else 0)
    assert bool(state.host) == (told(state) != ("queued", None) and "cancelled_pending" not in name)


@pytest.mark.parametrize(("release", "name"), [one for one in named("sacct_") if subject(one[1]) in QUEUE])
def test_accountings_answer_is_read_as_what_it_says(release: str, name: str) -> None:
    answer = recording(release, name)
    state = state_of(kept(history_of(answer, name), asked_id(answer)))
    assert told(state) == HISTORY[release][subject(name)]
    # 22.05's accounting tells in JSON of no exit code but 0, and hpcserve asks no release before 23.11 for JSON.
    if (release, "_json_" in name) != ("22.05", True):
        assert state.exit_code == EXIT_CODES.get(subject(name))


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("name", "expected"), [("node_fail_requeued", "node failed"), ("requeued_by_preemption", "preempted")]
)
def test_of_a_requeued_job_the_run_before_is_told(release: str, name: str, expected: str) -> None:
    answer = recording(release, f"sacct_text_{name}")
    assert "-D" in answer["argv"]
    runs = slurm_text.parse_runs(history_in_our_columns(answer["stdout"]))
    # 22.05 has no line for the run that is to come; 25.11 has.
    assert len(runs) == {"22.05": 1, "25.11": 2}[release]
    assert former_end(runs, 1) == expected
    assert former_end(runs, 2) is None


@pytest.mark.parametrize(("release", "name"), [one for one in named("s") if subject(one[1]) == "array_running"])
def test_of_an_array_each_job_is_told(release: str, name: str) -> None:
    answer = recording(release, name)
    if name.startswith("sacct"):
        assert {job.job: job.state for job in history_of(answer, name)} in ARRAYS
    else:
        jobs = queue_of(answer, name)
        assert sorted(job.state for job in jobs if job.name == "arr") == ["PENDING", "RUNNING", "RUNNING"]


ARRAYS = (
    {"29": "PENDING", "30": "RUNNING", "31": "RUNNING"},
    {"28": "PENDING", "29": "RUNNING", "30": "RUNNING"},
)


@pytest.mark.parametrize("release", RELEASES)
def test_of_several_jobs_those_that_slurm_knows_are_told(release: str) -> None:
    many = queue_of(recording(release, "squeue_text_many"), "squeue_text_many")
    assert sorted(state_of(job).phase for job in many) == ["ended", "queued", "running"]
    some = queue_of(recording(release, "squeue_text_some_unknown"), "squeue_text_some_unknown")
    assert [state_of(job).phase for job in some] == ["running"]
    assert queue_of(recording(release, "squeue_text_completing"), "squeue_text_completing") == []


def test_the_older_json_has_all_jobs_whatever_was_asked() -> None:
    jobs = queue_of(recording("22.05", "squeue_json_one_unknown"), "squeue_json_one_unknown")
    assert len(jobs) == 25
    assert {state_of(job).phase for job in jobs} == {"queued", "running", "ended"}


def test_json_counts_times_by_slurmctlds_clock() -> None:
    waiting = recording("25.11", "squeue_json_pending_resources")
    assert state_of(kept(queue_of(waiting, "squeue_json_"), asked_id(waiting))).starts_in_s == 1796


# --- The very answers to what hpcserve asks, of 22.05.

MANY = {
    "timeout": ("running", None, None),
    "completed": ("ended", "completed", 0),
    "failed": ("ended", "failed", 7),
    "signalled": ("ended", "failed", -11),
    "no_output": ("ended", "failed", None),
    "cancelled": ("ended", "cancelled", None),
    "cancelled_pending": ("ended", "cancelled", None),
    "held": ("queued", None, None),
    "begin": ("queued", None, None),
    "never": ("queued", None, None),
    "too_many_nodes": ("queued", None, None),
    "too_long": ("queued", None, None),
    "two_nodes": ("running", None, None),
    "suspended": ("suspended", None, None),
}
LOST = {
    "requeued": ("queued", None, None),
    "preempted": ("ended", "preempted", None),
    "node_lost": ("ended", "node failed", None),
    "node_lost_requeued": ("queued", None, None),
    "urgent": ("running", None, None),
}


def asked(moment: str) -> dict[str, JobState]:
    answer = recording("22.05", f"asked_squeue_{moment}")
    assert tuple(answer["argv"]) == QUEUE_TEXT, "tests/data/record_slurm.py is to be run again"
    jobs = slurm_text.parse_queue(answer["stdout"].encode(), now_s=answer["asked_s"])
    return {job.name: state_of(job) for job in jobs}


def remembered(moment: str) -> dict[str, JobState]:
    answer = recording("22.05", f"asked_sacct_{moment}")
    assert tuple(answer["argv"])[: len(HISTORY_TEXT)] == HISTORY_TEXT, "tests/data/record_slurm.py is to be run again"
    names = {job: name for name, job in answer["jobs"].items()}
    return {names[job.job]: state_of(job) for job in slurm_text.parse_history(answer["stdout"].encode())}


def test_the_queue_of_many_jobs_is_read_exactly() -> None:
    states = asked("many")
    assert {name: (states[name].phase, states[name].end, states[name].exit_code) for name in MANY} == MANY
    assert told(states["two\nlines | and bars"]) == ("running", None)
    assert told(states["ignores"]) == ("running", None)
    assert "COMPLETING" in states["ignores"].cause
    assert states["two_nodes"].host == "node1"
    assert 3500 < (states["begin"].starts_in_s or 0) <= 3600
    assert "pilots.nodes" in states["too_many_nodes"].cause
    assert "scontrol release" in states["held"].cause
    assert "its output file could not be opened" in states["no_output"].cause


def test_lost_and_requeued_jobs_are_told_apart() -> None:
    states = asked("lost")
    assert {name: (states[name].phase, states[name].end, states[name].exit_code) for name in LOST} == LOST
    assert [states[name].restarts for name in ("requeued", "node_lost_requeued", "preempted")] == [1, 1, 0]


def test_a_requeued_job_runs_again_and_walltime_ends_one() -> None:
    states = asked("later")
    assert told(states["timeout"]) == ("ended", "walltime")
    assert [(states[name].phase, states[name].restarts) for name in ("requeued", "node_lost_requeued")] == [
        ("running", 1),
        ("running", 1),
    ]


def test_accounting_of_the_same_jobs_agrees_once_they_have_ended() -> None:
    past = remembered("later")
    for name, expected in ((MANY | LOST) | {"timeout": ("ended", "walltime", None)}).items():
        if expected[0] == "ended":
            assert (past[name].phase, past[name].end, past[name].exit_code) == expected, name
    assert [past[name].restarts for name in ("requeued", "node_lost_requeued")] == [1, 1]


def test_accounting_tells_of_the_runs_of_the_same_jobs() -> None:
    answer = recording("22.05", "asked_sacct_later")
    runs = slurm_text.parse_runs(answer["stdout"].encode())
    ends = {name: former_end([run for run in runs if run.job == job], 1) for name, job in answer["jobs"].items()}
    assert {name: end for name, end in ends.items() if "requeued" in name} == {
        "requeued": "preempted",
        "node_lost_requeued": "node failed",
    }


# --- Damaged answers: an error, or the truth about each job that is told of; never a job with a wrong state.


def damaged() -> Iterator[tuple[str, bytes]]:
    yield "text queue", recording("22.05", "asked_squeue_lost")["stdout"].encode()
    yield "text history", recording("22.05", "asked_sacct_later")["stdout"].encode()
    yield "json queue", recording("25.11", "squeue_json_array_running")["stdout"].strip().encode()
    yield "json history", recording("25.11", "sacct_json_array_running")["stdout"].strip().encode()


ANSWERS = dict(damaged())


def read(form: str, answer: bytes) -> dict[JobId, SlurmJob]:
    readers = {
        "text queue": lambda: slurm_text.parse_queue(answer, now_s=0),
        "text history": lambda: slurm_text.parse_history(answer),
        "json queue": lambda: slurm_json.parse_queue(answer),
        "json history": lambda: slurm_json.parse_history(answer),
    }
    return {job.job: job for job in readers[form]()}


@given(data=st.data())
@pytest.mark.parametrize("form", ["text queue", "text history", "json queue", "json history"])
def test_an_answer_that_breaks_off_anywhere_is_an_error_or_tells_the_truth(form: str, data: st.DataObject) -> None:
    whole = ANSWERS[form]
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    truth = read(form, whole)
    try:
        jobs = read(form, cut)
    except SchedulerError:
        return
    assert form.startswith("text"), "half of a JSON answer is none"
    assert cut == b"" or cut.endswith(b"\n")
    if form == "text queue":
        assert all(truth[job] == told_now for job, told_now in jobs.items())


@given(data=st.data())
@pytest.mark.parametrize("form", ["text queue", "text history", "json queue", "json history"])
def test_a_damaged_byte_never_makes_another_state_of_one(form: str, data: st.DataObject) -> None:
    whole = ANSWERS[form]
    place = data.draw(st.integers(0, len(whole) - 1))
    bad = whole[:place] + data.draw(st.binary(min_size=0, max_size=2)) + whole[place + 1 :]
    truth = {name: told(state_of(job)) for name, job in read(form, whole).items()}
    try:
        jobs = read(form, bad)
    except SchedulerError:
        return
    if jobs.keys() != truth.keys():
        return  # a damaged id names another job, or one that nobody asked about
    for name, job in jobs.items():
        # A host that is cut away says that a job never ran; no other end can change into a third.
        now = told(state_of(job))
        assert now == truth[name] or now[0] == "unknown" or now == ("ended", "never started"), (name, now)


@given(st.binary(max_size=600))
@pytest.mark.parametrize("form", ["text queue", "text history", "json queue", "json history"])
def test_garbage_is_an_error_or_an_empty_answer(form: str, garbage: bytes) -> None:
    try:
        jobs = read(form, garbage)
    except SchedulerError:
        return
    assert jobs == {}
    assert garbage == b""
