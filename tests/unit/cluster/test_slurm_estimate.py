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


def test_no_answer_is_no_guess(tmp_path: Path) -> None:
    runner = Runner(timeout_s=5.0, environment={"PATH": str(tmp_path)})
    assert asyncio.run(SlurmEstimate(runner).starts_at("#!/bin/sh\n")) is None
