"""Each recorded answer of a real OpenPBS 23.06 is read, and none as a wrong state, whatever happens to it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.cluster import pbs_json
from hpcserve.cluster.pbs import state_of
from hpcserve.cluster.pbs_estimate import parse_estimates
from hpcserve.cluster.seam import JobId, JobState
from hpcserve.errors import JobRefused, SchedulerError
from tests.unit.cluster.pbs_stage import NAMES, QSTAT, FakePbs, recording

Facts = tuple[str, str | None, int | None, str, int]
RUNS: Facts = ("running", None, None, "pbs", 0)

# Phase, end, exit code, host and restarts of each job that an answer tells of.
JOBS: dict[str, dict[str, Facts]] = {
    "qstat_all_bulk": {"2.pbs": RUNS},
    "qstat_array": {"11[].pbs": ("running", None, None, "", 0)},
    "qstat_array_subjobs": {
        "11[].pbs": ("running", None, None, "", 0),
        "11[1].pbs": RUNS,
        "11[2].pbs": RUNS,
        "11[3].pbs": RUNS,
    },
    "qstat_bulk_one_unknown": {"2.pbs": RUNS},
    "qstat_finished_deleted": {"2.pbs": ("ended", "cancelled", None, "pbs", 0)},
    "qstat_finished_exit7": {"9.pbs": ("ended", "failed", 7, "pbs", 0)},
    "qstat_finished_ok": {"5.pbs": ("ended", "completed", 0, "pbs", 0)},
    "qstat_finished_walltime": {"10.pbs": ("ended", "walltime", None, "pbs", 0)},
    "qstat_finished_without_x": {},
    "qstat_held": {"6.pbs": ("queued", None, None, "", 0)},
    "qstat_queued": {"5.pbs": ("queued", None, None, "", 0)},
    "qstat_running": {"2.pbs": RUNS},
    "qstat_unknown": {},
}
# What else is in the JSON that is of no job.
OTHERS = {"pbsnodes": "nodes", "qstat_queues": "Queue", "qstat_server": "Server"}
SUBMISSIONS: dict[str, str | type[SchedulerError]] = {
    "qsub_array": JobRefused,
    "qsub_bad_queue": JobRefused,
    "qsub_bad_resource": JobRefused,
    "qsub_bad_walltime": JobRefused,
    "qsub_fail": "9.pbs",
    "qsub_held": "6.pbs",
    "qsub_ok": "2.pbs",
    "qsub_ok_queued": "5.pbs",
    "qsub_walltime": "10.pbs",
}
DELETIONS = ("qdel_finished", "qdel_ok", "qdel_running", "qdel_unknown")
TEXTS = ("qstat_T_estimated_start", "qstat_version")


def test_no_recording_is_left_out() -> None:
    assert sorted([*JOBS, *OTHERS, *SUBMISSIONS, *DELETIONS, *TEXTS]) == NAMES


def facts(state: JobState) -> Facts:
    return state.phase, state.end, state.exit_code, state.host, state.restarts


def read(stdout: str) -> dict[str, JobState]:
    return {job.job: state_of(job) for job in pbs_json.parse_jobs(stdout.encode())}


@pytest.mark.parametrize("name", JOBS)
def test_each_job_of_an_answer_is_read_as_what_happened(name: str) -> None:
    states = read(recording(name)["stdout"])
    assert {job: facts(state) for job, state in states.items()} == JOBS[name]


@pytest.mark.parametrize("name", [name for name in JOBS if recording(name)["stdout"]])
def test_of_each_job_that_was_asked_for_the_truth_is_told(name: str, tmp_path: Path) -> None:
    fake = FakePbs(tmp_path)
    found = recording(name)
    asked = [JobId(word) for word in found["argv"] if "pbs" in word]
    for alone in ("qstat_queued", "qstat_held"):
        fake.replays(alone)
    for other in ("3.pbs", "4.pbs"):
        fake.says(f"qstat -f -F json -x {other}", '{"timestamp": 1}', err=f"qstat: Unknown Job Id {other}\n", code=153)
    fake.says(" ".join([QSTAT, *sorted(asked)]), found["stdout"], err=found["stderr"], code=found["exit_code"])
    told = asyncio.run(fake.commands().jobs(asked))
    assert not told.silent
    if name in ("qstat_finished_without_x", "qstat_unknown"):
        assert told.absent == set(asked)
    known = {job: facts(state_of(each)) for job, each in told.jobs.items()}
    assert known.items() >= {job: fact for job, fact in JOBS[name].items() if job in asked}.items()
    if name == "qstat_all_bulk":  # 23.06 has printed the first of five jobs
        assert {job: fact[0] for job, fact in known.items()} == {
            "2.pbs": "running",
            "5.pbs": "queued",
            "6.pbs": "queued",
        }
        assert told.absent == {"3.pbs", "4.pbs"}
    if name == "qstat_bulk_one_unknown":
        assert {job: fact[0] for job, fact in known.items()} == {"2.pbs": "running", "5.pbs": "queued"}
        assert told.absent == {"999999.pbs"}


@pytest.mark.parametrize("name", OTHERS)
def test_an_answer_about_something_else_is_read_and_has_no_job(name: str) -> None:
    stdout = recording(name)["stdout"].encode()
    assert pbs_json.decoded("any", stdout)[OTHERS[name]]
    assert pbs_json.parse_jobs(stdout) == []


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_submission_gives_an_id_or_says_what_to_do(name: str, tmp_path: Path) -> None:
    fake = FakePbs(tmp_path)
    found, expected = recording(name), SUBMISSIONS[name]
    fake.says("qsub", found["stdout"], err=found["stderr"], code=found["exit_code"])
    submission = fake.commands().submit(found["stdin"])
    if isinstance(expected, str):
        assert asyncio.run(submission) == expected
        assert (tmp_path / "script").read_text() == found["stdin"]
        return
    with pytest.raises(expected, match=r"pilots\."):
        asyncio.run(submission)


def test_a_job_array_that_nobody_wanted_is_deleted(tmp_path: Path) -> None:
    fake = FakePbs(tmp_path)
    fake.says("qsub", recording("qsub_array")["stdout"])
    with pytest.raises(JobRefused, match="-J"):
        asyncio.run(fake.commands().submit("#!/bin/sh\n"))
    assert "qdel 11[].pbs" in fake.asked


@pytest.mark.parametrize("name", DELETIONS)
def test_a_deletion_of_any_job_is_no_error(name: str, tmp_path: Path) -> None:
    fake = FakePbs(tmp_path)
    fake.replays(name)
    asyncio.run(fake.commands().cancel(JobId(recording(name)["argv"][1])))
    assert fake.asked == [" ".join(recording(name)["argv"])]


NOW = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)


def test_a_listing_without_a_guess_has_none() -> None:
    assert parse_estimates(recording("qstat_T_estimated_start")["stdout"].encode(), NOW) == {}


def test_a_listing_tells_when_a_job_starts_today() -> None:
    listing = recording("qstat_T_estimated_start")["stdout"]
    assert parse_estimates(listing.replace("Q    --", "Q 13:00").encode(), NOW) == {"5": 3570.0}
    for other in ("11:00", "Fri", "25:10", ">5yrs", ""):  # gone by, too coarse, or nothing
        assert parse_estimates(listing.replace("   --\n", f"{other:>5}\n").encode(), NOW) == {}
    assert parse_estimates(
        listing.replace("5.pbs   ", "5[].pbs ").replace("  --\n", "13:00\n").encode(), NOW
    ).keys() == {"5[]"}


def test_a_version_is_no_answer_about_jobs() -> None:
    with pytest.raises(SchedulerError, match="run it by hand"):
        read(recording("qstat_version")["stdout"])


# --- Damaged answers: an error, or the truth; never an end that was none.

WHOLE = [name for name in JOBS if recording(name)["stdout"]]


def is_truth(now: JobState, truth: JobState) -> bool:
    """A job that lives stays alive or becomes unknown; one that has ended is not a success that it was not."""
    if now.phase == "unknown":
        return True
    if truth.phase != "ended":
        return now.phase != "ended"
    return now.end != "completed" or truth.end == "completed"


@given(data=st.data())
@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_breaks_off_anywhere_is_none(name: str, data: st.DataObject) -> None:
    whole = recording(name)["stdout"].strip()
    with pytest.raises(SchedulerError):
        read(whole[: data.draw(st.integers(0, len(whole) - 1))])


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-400, 400),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(["", "n", "-", "0x10", "1e3", "NaN", "R", "Q", "E", "H", "S", "T", "U", "W", "X", "M", "B", "F"]),
)


@given(data=st.data())
@pytest.mark.parametrize("name", [name for name in WHOLE if JOBS[name]])
def test_a_field_that_is_missing_or_another_never_ends_a_job_nor_makes_it_a_success(
    name: str, data: st.DataObject
) -> None:
    whole: dict[str, Any] = json.loads(recording(name)["stdout"])
    truth = read(json.dumps(whole))
    job = data.draw(st.sampled_from(sorted(whole["Jobs"])))
    key = data.draw(st.sampled_from(sorted(whole["Jobs"][job])))
    fields = {**whole["Jobs"][job]}
    if data.draw(st.booleans()):
        del fields[key]
    else:
        fields[key] = data.draw(VALUES)
    now = read(json.dumps({**whole, "Jobs": {**whole["Jobs"], job: fields}}))
    assert all(is_truth(now[each], truth[each]) for each in truth)
    assert {each: now[each] for each in truth if each != job} == {each: truth[each] for each in truth if each != job}


@given(data=st.data())
@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_byte_never_ends_a_job(name: str, data: st.DataObject) -> None:
    whole = recording(name)["stdout"].strip().encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    bad = whole[:place] + data.draw(st.binary(min_size=0, max_size=2)) + whole[place + 1 :]
    truth = read(whole.decode())
    try:
        found = {job.job: state_of(job) for job in pbs_json.parse_jobs(bad)}
    except SchedulerError:
        return
    for name_, state in found.items():
        if name_ in truth and truth[name_].phase != "ended":
            assert state.phase != "ended"


@given(st.binary(max_size=400))
def test_garbage_is_an_error(garbage: bytes) -> None:
    with pytest.raises(SchedulerError):
        pbs_json.parse_jobs(garbage)
