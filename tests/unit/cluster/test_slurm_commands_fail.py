"""Slurm's commands do not answer, or something else: nothing is concluded, and they are left alone for a while."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable
from pathlib import Path

import pytest

from hpcserve.cluster.seam import Answered, JobId, JobState
from hpcserve.core.breaker import FIRST_S, LONGEST_S
from hpcserve.errors import JobRefused, SchedulerError
from tests.unit.cluster.slurm_stage import (
    DATA,
    NO_SLURMDBD,
    ONE,
    FakeSlurm,
    pilot_job,
    polled,
    record,
)


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


async def fails(call: Awaitable[object]) -> SchedulerError:
    with pytest.raises(SchedulerError) as caught:
        await call
    return caught.value


NO_CONTROLLER = "Unable to contact slurm controller (connect failure)"
LEFT_ALONE = r"squeue failed with exit code 1: .*; so it was at [\d:]{8}, asked again at [\d:]{8}$"


def test_a_slurmctld_that_does_not_answer_is_left_alone_for_longer_and_longer(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.says("squeue", err=f"slurm_load_jobs error: {NO_CONTROLLER}", code=1)
    fake.says("sbatch", "17\n")
    scheduler = fake.scheduler()

    def commands() -> list[int]:
        return [len(fake.asked(command)) for command in ("squeue", "sbatch", "scancel")]

    async def play() -> None:
        began_s = fake.now_s
        while fake.now_s < began_s + 600.0:  # ten minutes, in which everybody asks every second
            told = [
                await fails(scheduler.poll([ONE])),
                await fails(scheduler.find("0a1b2c3d")),
                await fails(scheduler.submit(pilot_job(tmp_path))),
                await fails(scheduler.cancel(ONE)),
            ]
            assert all(NO_CONTROLLER in error.message for error in told)
            fake.now_s += 1.0
        assert commands() == [14, 0, 0]  # at 0, 2, 6, 14, 30, 62 s, then each minute
        assert re.match(LEFT_ALONE, (await fails(scheduler.submit(pilot_job(tmp_path)))).message)
        fake.queue(("1", "RUNNING", "None"))
        await fails(scheduler.poll([ONE]))
        assert commands() == [14, 0, 0]
        scheduler.retry_now()
        assert (await scheduler.poll([ONE]))[ONE].phase == "running"
        await scheduler.cancel(ONE)
        assert await scheduler.submit(pilot_job(tmp_path)) == "17"
        assert commands() == [15, 1, 1]

    asyncio.run(play())


def test_of_many_cancellations_that_are_not_answered_one_is_tried_and_the_queue_is_asked(fake: FakeSlurm) -> None:
    fake.says("scancel", err=f"scancel: error: {NO_CONTROLLER}", code=1)
    fake.queue(("1", "RUNNING", "None"))
    scheduler = fake.scheduler()

    async def play() -> None:
        for _ in range(3):
            await fails(scheduler.cancel(ONE))
            await scheduler.poll([ONE])
        fake.now_s += FIRST_S
        await fails(scheduler.cancel(ONE))

    asyncio.run(play())
    assert [len(fake.asked(command)) for command in ("squeue", "scancel")] == [3, 2]


def test_that_one_job_cannot_be_cancelled_is_an_answer_and_the_others_are(fake: FakeSlurm) -> None:
    fake.says("scancel", err="scancel: error: Kill job error on job id 1: Access/permission denied", code=1)
    scheduler = fake.scheduler()

    async def play() -> None:
        error = await fails(scheduler.cancel(ONE))
        assert (type(error), error.retry_after_s) == (Answered, None)
        assert "Slurm does not end the job: Kill job error on job id 1" in error.message
        fake.says("scancel")
        await scheduler.cancel(JobId("2"))

    asyncio.run(play())
    assert len(fake.asked("scancel")) == 2


def test_an_sbatch_that_fails_is_left_alone_and_the_queue_is_not(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.says("sbatch", err=f"sbatch: error: Batch job submission failed: {NO_CONTROLLER}\n", code=1)
    fake.queue(("1", "RUNNING", "None"))
    scheduler = fake.scheduler()

    async def play() -> None:
        for _ in range(3):
            await fails(scheduler.submit(pilot_job(tmp_path)))
            assert (await scheduler.poll([ONE]))[ONE].phase == "running"
        assert (await fails(scheduler.submit(pilot_job(tmp_path)))).retry_after_s == FIRST_S
        assert len(fake.asked("sbatch")) == 1
        fake.now_s += FIRST_S
        fake.says("sbatch", err="sbatch: error: Batch job submission failed: Invalid qos specification\n", code=1)
        for _ in range(3):  # it was answered
            assert isinstance(await fails(scheduler.submit(pilot_job(tmp_path))), JobRefused)
        assert len(fake.asked("sbatch")) == 4

    asyncio.run(play())


def test_an_accounting_that_does_not_answer_is_left_alone_and_slurmctld_is_not(fake: FakeSlurm) -> None:
    fake.queue()
    fake.says("sacct", err=NO_SLURMDBD, code=1)
    scheduler = fake.scheduler()
    for _ in range(2):
        assert "Connection refused" in polled(scheduler, times=3)[ONE].cause
        fake.now_s += FIRST_S
    assert [len(fake.asked(command)) for command in ("squeue", "sacct")] == [6, 2]


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("hang", r"did not answer within 0\.5 s"),
        ("garbage", "cannot read the answer of squeue"),
        ("half", "cannot read the answer of squeue: it breaks off"),
        ("gigabytes", "printed more than 100000 bytes"),
        ("killed", "was killed by signal 9"),
    ],
)
def test_a_squeue_that_misbehaves_raises_and_ends_no_job(fake: FakeSlurm, does: str, message: str) -> None:
    fake.queue(("1", "RUNNING", "None"))
    scheduler = fake.scheduler(timeout_s=0.5 if does == "hang" else 20.0, max_bytes=100_000)
    fake.says("squeue", (fake.directory / "squeue.out").read_bytes(), does=does)
    with pytest.raises(SchedulerError, match=message):
        polled(scheduler)


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        (b"Welcome to the cluster\n", "'Welcome to the cluster'"),
        (b"\n\x1b[31m\xff\x00\x80" + b"x" * 2000, r"'\x1b[31m\xff\x00\x80" + "x" * 72 + "'"),
    ],
)
def test_an_unreadable_answer_is_shown_by_its_first_line_in_short(fake: FakeSlurm, before: bytes, shown: str) -> None:
    fake.queue(("1", "RUNNING", "None"))
    fake.says("squeue", before + (fake.directory / "squeue.out").read_bytes())
    with pytest.raises(SchedulerError) as caught:
        polled(fake.scheduler())
    assert f": {shown}; run it by hand and look" in caught.value.message


def test_a_missing_command_says_what_to_do(fake: FakeSlurm, tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match="squeue: command not found in PATH .*module load"):
        polled(fake.scheduler(path=str(tmp_path)))


def test_another_program_by_the_name_of_squeue_is_noticed(fake: FakeSlurm) -> None:
    (fake.directory / "version").write_text("usage: squeue FILE\n")
    with pytest.raises(SchedulerError, match="is the squeue that PATH finds that of Slurm"):
        polled(fake.scheduler())


def test_a_newer_slurm_is_asked_for_json(fake: FakeSlurm) -> None:
    fake.version("25.11.7")
    recorded = json.loads((DATA / "slurm-25.11" / "squeue_json_running.json").read_text())
    fake.says("squeue", recorded["stdout"])
    past = json.loads((DATA / "slurm-25.11" / "sacct_json_timeout.json").read_text())
    fake.says("sacct", past["stdout"])
    states = polled(fake.scheduler(), JobId("21"), JobId("14"))
    assert states[JobId("21")] == JobState(phase="running", host="node1")
    assert states[JobId("14")].end == "walltime"
    assert fake.asked("squeue") == ["--me --all --states=all --json"]
    assert fake.asked("sacct") == ["--json --jobs=14"]


def test_a_newer_slurm_without_json_is_asked_for_text(fake: FakeSlurm) -> None:
    fake.version("24.05.1")
    fake.says("squeue", record("1", "RUNNING", "None"), code=1, err="squeue: error: Unable to load data_parser/v0.0.41")

    async def ask() -> None:
        scheduler = fake.scheduler()
        with pytest.raises(SchedulerError, match="data_parser"):  # the stand-in fails for text, too
            await scheduler.poll([ONE])
        fake.now_s += LONGEST_S
        fake.queue(("1", "RUNNING", "None"))
        assert (await scheduler.poll([ONE]))[ONE].phase == "running"

    asyncio.run(ask())
    assert ["--json" in line for line in fake.asked("squeue")] == [True, False, False]


def test_a_newer_slurm_that_is_down_is_asked_for_json_again(fake: FakeSlurm) -> None:
    fake.version("25.11.7")
    fake.says("squeue", code=1, err="slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    scheduler = fake.scheduler()
    for _ in range(2):
        with pytest.raises(SchedulerError, match="connect failure"):
            polled(scheduler)
        fake.now_s += LONGEST_S
    assert ["--json" in line for line in fake.asked("squeue")] == [True, True]
