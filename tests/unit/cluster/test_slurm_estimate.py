"""What ``sbatch --test-only`` says of a start, as recorded and as it should not be."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hpcserve.cluster.runner import Runner
from hpcserve.cluster.seam import Estimator
from hpcserve.cluster.slurm_estimate import SlurmEstimate, parsed
from hpcserve.core.breaker import FIRST_S
from hpcserve.errors import SchedulerError
from tests.unit.cluster.slurm_stage import DATA, ONE, FakeSlurm, pilot_job, polled

RECORDED = {"slurm-22.05": "2026-11-24T00:06:31", "slurm-25.11": "2026-11-24T00:23:52"}


@pytest.mark.parametrize("release", RECORDED)
def test_the_recorded_answers(release: str) -> None:
    told = json.loads((DATA / release / "sbatch_test_only.json").read_text())["stderr"]
    assert parsed(told) == datetime.fromisoformat(RECORDED[release]).timestamp()


@pytest.mark.parametrize(
    "told",
    [
        "",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "allocation failure: Requested partition configuration not available now",
        "sbatch: Job 7 to start at N/A using 1 processors",
        "sbatch: Job 7 to start at 2026-99-99T00:00:00 using 1 processors",
        "sbatch: Job 7 to start at 0000-00-00T00:00:00",
    ],
)
def test_answers_without_a_time(told: str) -> None:
    assert parsed(told) is None


def test_the_adapter_asks_with_the_script_of_the_shape(tmp_path: Path) -> None:
    fake = FakeSlurm(tmp_path)
    at = (datetime.now().astimezone() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
    fake.says("sbatch", err=f"sbatch: Job 7 to start at {at} using 1 processors on nodes node1 in partition batch\n")
    scheduler = fake.scheduler()
    assert isinstance(scheduler, Estimator)
    starts_in_s = asyncio.run(scheduler.starts_in_s(pilot_job(tmp_path)))
    assert starts_in_s is not None
    assert 3500 < starts_in_s <= 3600
    assert ["--test-only" in line for line in fake.asked("sbatch")] == [True]


def test_while_slurm_does_not_answer_it_is_not_asked_that_either(tmp_path: Path) -> None:
    fake = FakeSlurm(tmp_path)
    fake.says("squeue", err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", code=1)
    scheduler = fake.scheduler()
    with pytest.raises(SchedulerError):
        polled(scheduler, ONE)
    assert asyncio.run(scheduler.starts_in_s(pilot_job(tmp_path))) is None
    assert fake.asked("sbatch") == []


REFUSED = "allocation failure: Requested partition configuration not available now"
AWAY = "allocation failure: Unable to contact slurm controller (connect failure)"


def test_a_refusal_is_an_answer_without_a_guess_and_jobs_are_submitted(tmp_path: Path) -> None:
    fake = FakeSlurm(tmp_path)
    scheduler = fake.scheduler()
    for _ in range(3):
        fake.says("sbatch", err=f"{REFUSED}\n", code=1)
        assert asyncio.run(scheduler.starts_in_s(pilot_job(tmp_path))) is None
        fake.says("sbatch", "17\n")
        assert asyncio.run(scheduler.submit(pilot_job(tmp_path))) == "17"
    assert len(fake.asked("sbatch")) == 6


@pytest.mark.parametrize("does", ["hang", "killed", "away"])
def test_a_question_without_an_answer_counts_as_a_submission_without_one(tmp_path: Path, does: str) -> None:
    fake = FakeSlurm(tmp_path)
    fake.says("sbatch", "17\n", err=f"{AWAY}\n", code=1, does=does)
    scheduler, job = fake.scheduler(timeout_s=0.5 if does == "hang" else 20.0), pilot_job(tmp_path)
    assert [asyncio.run(scheduler.starts_in_s(job)) for _ in range(4)] == [None] * 4
    with pytest.raises(SchedulerError) as caught:
        asyncio.run(scheduler.submit(job))
    assert caught.value.retry_after_s == FIRST_S
    assert len(fake.asked("sbatch")) == 1, "it is left alone"


def test_where_only_the_guess_hangs_jobs_are_submitted_all_the_same(tmp_path: Path) -> None:
    fake = FakeSlurm(tmp_path)
    scheduler, job = fake.scheduler(timeout_s=0.5), pilot_job(tmp_path)
    fake.says("sbatch", does="hang")
    assert asyncio.run(scheduler.starts_in_s(job)) is None
    fake.now_s += FIRST_S
    assert asyncio.run(scheduler.starts_in_s(job)) is None
    fake.says("sbatch", "17\n")
    assert asyncio.run(scheduler.submit(job)) == "17"
    assert ["--test-only" in line for line in fake.asked("sbatch")] == [True, False]
    at = (datetime.now().astimezone() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
    fake.says("sbatch", err=f"sbatch: Job 7 to start at {at} using 1 processors on nodes node1 in partition batch\n")
    assert asyncio.run(scheduler.starts_in_s(job)) is not None, "it was answered again"


def test_a_missing_sbatch_is_no_answer(tmp_path: Path) -> None:
    runner = Runner(timeout_s=5.0, environment={"PATH": str(tmp_path)})
    with pytest.raises(SchedulerError, match="sbatch: command not found"):
        asyncio.run(SlurmEstimate(runner).starts_at("#!/bin/sh\n"))
