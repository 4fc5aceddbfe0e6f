"""Jobs are submitted and cancelled by Slurm's commands: taken, refused, or nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcserve.errors import JobRefused, NoRoom, SchedulerError, SubmissionUnknown
from tests.unit.cluster.slurm_stage import (
    ONE,
    FakeSlurm,
    pilot_job,
    record,
)


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


def test_a_job_is_submitted_under_its_name_and_found_by_it(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.says("sbatch", "17\n")
    assert asyncio.run(fake.scheduler().submit(pilot_job(tmp_path))) == "17"
    assert "# hpcserve-0a1b2c3d-pilot-3\n" in (fake.directory / "sbatch.in").read_text()
    names = ("hpcserve-0a1b2c3d-pilot-3", "hpcserve-ffffffff-pilot-3", "else", "hpcserve-0a1b2c3d-pilot-4")
    fake.says("squeue", b"".join(record(str(17 + n), "PENDING", "", name=name) for n, name in enumerate(names)))
    assert asyncio.run(fake.scheduler().find("0a1b2c3d")) == {"17": "pilot-3", "20": "pilot-4"}


FAILED = "Batch job submission failed: "
POLICY = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
REFUSALS = {
    f"{FAILED}Invalid account or account/partition combination specified": (JobRefused, r"pilots\.account"),
    f"{FAILED}Invalid qos specification": (JobRefused, r"pilots\.qos"),
    f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)": (JobRefused, r"pilots\.walltime_s"),
    f"Name a project.\nsbatch: error: {FAILED}Unspecified error": (JobRefused, "Name a project. Batch"),
    f"QOSMaxWallDurationPerJobLimit\nsbatch: error: {POLICY}": (JobRefused, "larger than this limit"),
    f"QOSMaxNodePerJobLimit\nsbatch: error: {POLICY}": (JobRefused, "larger than this limit"),
    f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}": (NoRoom, "QOSMaxSubmitJobPerUserLimit"),
    f"AssocMaxSubmitJobLimit\nsbatch: error: {POLICY}": (NoRoom, "AssocMaxSubmitJobLimit"),
    POLICY: (NoRoom, "submitted again"),
    f"{FAILED}MaxJobCount limit reached": (NoRoom, "MaxJobCount"),
    f"{FAILED}Required partition not available (inactive or drain)": (NoRoom, r"choose another pilots\.partition"),
    f"{FAILED}Partition in DOWN state": (NoRoom, r"choose another pilots\.partition"),
    f"{FAILED}Unable to contact slurm controller (connect failure)": (SchedulerError, "submitted again"),
    "Slurm temporarily unable to accept job, sleeping and retrying": (SchedulerError, "submitted again"),
    f"{FAILED}I/O error writing script/environment to file": (SchedulerError, "submitted again"),
    f"{FAILED}Rate limit exceeded, please retry momentarily": (SchedulerError, "submitted again"),
    f"{FAILED}Socket timed out on send/recv operation": (SubmissionUnknown, "its name will tell"),
    f"{FAILED}Unable to contact slurm controller (receive failure)": (SubmissionUnknown, "its name will tell"),
    f"{FAILED}Zero Bytes were transmitted or received": (SubmissionUnknown, "its name will tell"),
    "": (SubmissionUnknown, "without a word"),
}


@pytest.mark.parametrize("err", REFUSALS)
def test_a_refusal_is_for_ever_for_now_or_in_doubt(fake: FakeSlurm, tmp_path: Path, err: str) -> None:
    kind, message = REFUSALS[err]
    fake.says("sbatch", err=f"sbatch: error: {err}\n" if err else "", code=1)
    with pytest.raises(SchedulerError, match=message) as caught:
        asyncio.run(fake.scheduler().submit(pilot_job(tmp_path)))
    assert type(caught.value) is kind


@pytest.mark.parametrize("does", ["hang", "killed", "garbage", "gigabytes"])
def test_an_sbatch_that_does_not_answer_may_have_submitted(fake: FakeSlurm, tmp_path: Path, does: str) -> None:
    fake.says("sbatch", "17\n", does=does)
    scheduler = fake.scheduler(timeout_s=0.5 if does == "hang" else 20.0, max_bytes=100_000)
    with pytest.raises(SubmissionUnknown, match="name will tell"):
        asyncio.run(scheduler.submit(pilot_job(tmp_path)))


def test_a_missing_sbatch_has_submitted_nothing(fake: FakeSlurm, tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match="sbatch: command not found") as caught:
        asyncio.run(fake.scheduler(path=str(tmp_path)).submit(pilot_job(tmp_path)))
    assert type(caught.value) is SchedulerError


def test_a_job_of_another_cluster_of_the_site_has_its_number(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.says("sbatch", "welcome to the cluster\n17;other\n")
    assert asyncio.run(fake.scheduler().submit(pilot_job(tmp_path))) == "17"


@pytest.mark.parametrize(
    "out",
    [
        "sbatch: the scratch file system is read-only until 18:00\n17\n",
        "17\nYour project has used 2026 of its node hours in\n2026 days\n",
        "\n  17;other \n\n",
        "wrapper: checked\nSubmitted batch job 17 on cluster other\n",
    ],
)
def test_the_id_is_the_line_that_is_nothing_else(fake: FakeSlurm, tmp_path: Path, out: str) -> None:
    fake.says("sbatch", out)
    assert asyncio.run(fake.scheduler().submit(pilot_job(tmp_path))) == "17"


@pytest.mark.parametrize(
    "out", ["", "maintenance ends in 2026\n", "job 17 was queued\n", "17\n18\n", "-17\n", "17.0\n"]
)
def test_where_the_id_is_not_told_the_name_will_tell(fake: FakeSlurm, tmp_path: Path, out: str) -> None:
    fake.says("sbatch", out)
    with pytest.raises(SubmissionUnknown, match="name will tell"):
        asyncio.run(fake.scheduler().submit(pilot_job(tmp_path)))


def test_an_sbatch_that_fails_after_it_printed_an_id_may_have_submitted(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.says("sbatch", "17\n", err="sbatch: error: cli_filter/lua: post_submit failed\n", code=1)
    with pytest.raises(
        SubmissionUnknown, match=r"post_submit failed, and printed the id of a job before, 17; .* name will tell"
    ):
        asyncio.run(fake.scheduler().submit(pilot_job(tmp_path)))


def test_cancelling_what_has_ended_or_never_was_is_no_error_but_no_answer_is(fake: FakeSlurm) -> None:
    cancel: Callable[[], None] = lambda: asyncio.run(fake.scheduler().cancel(ONE))  # noqa: E731  called five times
    fake.says("scancel")
    cancel()
    assert fake.asked("scancel") == ["1"]
    for text in ("Invalid job id specified", "Job/step already completing or completed"):
        fake.says("scancel", err=f"scancel: error: Kill job error on job id 1: {text}", code=1)
        cancel()
    fake.says("scancel", err="scancel: error: Kill job error on job id 1: Unable to contact slurm controller", code=8)
    with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
        cancel()
