"""A job of which only one is to run at a time: PBS is told of those that it comes after."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from hpcserve.cluster.pbs import PbsScheduler
from hpcserve.cluster.seam import JobId, PilotJob
from hpcserve.errors import SchedulerError
from tests.unit.cluster.pbs_stage import DOWN, TAG, FakePbs, job, pilot_job


@pytest.fixture
def rendered() -> list[PilotJob]:
    return []


@pytest.fixture
def pbs(tmp_path: Path, rendered: list[PilotJob]) -> tuple[FakePbs, PbsScheduler]:
    def render(job: PilotJob, name: str) -> str:
        rendered.append(job)
        return f"#PBS -N {name}\n"

    fake = FakePbs(tmp_path)
    fake.says("qsub", "9.pbs\n")
    return fake, PbsScheduler(fake.commands(), user="me", render=render)


def test_it_comes_after_the_living_ones_of_its_name(
    pbs: tuple[FakePbs, PbsScheduler], rendered: list[PilotJob], tmp_path: Path
) -> None:
    fake, scheduler = pbs
    fake.says("qselect", "1.pbs\n2.pbs\n3.pbs\n")
    other = job(Job_Name=f"hpcserve-{TAG}-2")
    fake.has({"1.pbs": job(), "2.pbs": other, "3.pbs": job(job_state="H", substate=22)})
    single = dataclasses.replace(pilot_job(tmp_path), single=True)
    assert asyncio.run(scheduler.submit(single)) == JobId("9.pbs")
    assert [each.after for each in rendered] == [("1.pbs", "3.pbs")]


def test_any_other_job_is_submitted_without_a_question(
    pbs: tuple[FakePbs, PbsScheduler], rendered: list[PilotJob], tmp_path: Path
) -> None:
    fake, scheduler = pbs
    asyncio.run(scheduler.submit(pilot_job(tmp_path)))
    assert [each.after for each in rendered] == [()]
    assert [line.split()[0] for line in fake.asked] == ["qsub"]


def test_where_they_are_not_known_nothing_is_submitted(pbs: tuple[FakePbs, PbsScheduler], tmp_path: Path) -> None:
    fake, scheduler = pbs
    fake.says("qselect", err=DOWN, code=255)
    with pytest.raises(SchedulerError):
        asyncio.run(scheduler.submit(dataclasses.replace(pilot_job(tmp_path), single=True)))
    assert [line.split()[0] for line in fake.asked] == ["qselect"]
