"""The adapter over stand-ins for Slurm's commands: what it asks, and what it concludes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from hpcserve.cluster.job_watch import GONE_AFTER, GONE_AFTER_S
from hpcserve.cluster.seam import JobId, JobState
from hpcserve.cluster.slurm import SlurmScheduler
from hpcserve.cluster.slurm_jobs import SlurmJob
from hpcserve.core.breaker import LONGEST_S
from hpcserve.errors import SchedulerError
from tests.unit.cluster.slurm_stage import (
    NO_ACCOUNTING,
    NO_SLURMDBD,
    ONE,
    FakeSlurm,
    polled,
    record,
)


@pytest.fixture
def fake(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path)


def test_one_question_a_poll_and_of_ones_own_jobs_only(fake: FakeSlurm) -> None:
    fake.queue(("1", "RUNNING", "None"), ("2", "PENDING", "Priority"))
    states = polled(fake.scheduler(), ONE, JobId("2"), times=3)
    assert [states[ONE].phase, states[JobId("2")].phase] == ["running", "queued"]
    assert states[ONE].host == "node1"
    assert states[JobId("2")].cause == "Priority: jobs with a higher priority come first"
    assert len(fake.asked("squeue")) == 3
    assert all("--me" in line for line in fake.asked("squeue"))
    assert fake.asked("sacct") == []


def test_nothing_is_asked_for_no_jobs(fake: FakeSlurm) -> None:
    assert asyncio.run(fake.scheduler().poll([])) == {}
    assert fake.asked("squeue") == []


def test_the_queue_is_believed_before_accounting(fake: FakeSlurm) -> None:
    fake.queue(("1", "PENDING", "BeginTime"))
    fake.says("sacct", "1|PREEMPTED|0:0|node1\n")
    assert polled(fake.scheduler())[ONE].phase == "queued"
    assert fake.asked("sacct") == []


def test_a_forgotten_job_has_the_end_that_accounting_tells_of_its_last_run(fake: FakeSlurm) -> None:
    fake.queue(("2", "RUNNING", "None"))
    fake.says("sacct", "1|PREEMPTED|0:0|node1\n1|CANCELLED by 1000|0:0|node2\n")
    states = polled(fake.scheduler(), ONE, JobId("2"))
    assert states[JobId("2")].phase == "running"
    assert (states[ONE].end, states[ONE].host, states[ONE].restarts) == ("cancelled", "node2", 1)
    assert "by uid 1000" in states[ONE].cause
    assert [line.split()[-1] for line in fake.asked("sacct")] == ["--jobs=1"]


NO_ANSWER = [
    ("", 1, NO_SLURMDBD, "Problem talking to the database"),
    ("1|COMPLETED|0:0|node1", 0, "", "it breaks off in this line"),
    ("1|COMPL\n", 0, "", "cannot read the answer of sacct"),
]


@pytest.mark.parametrize(("out", "code", "err", "cause"), NO_ANSWER)
def test_a_forgotten_job_is_unknown_for_as_long_as_accounting_does_not_answer(
    fake: FakeSlurm, out: str, code: int, err: str, cause: str
) -> None:
    scheduler = fake.scheduler()
    fake.queue()
    fake.says("sacct", out, code=code, err=err)
    for _ in range(2 * GONE_AFTER):
        state = polled(scheduler)[ONE]
        assert state.phase == "unknown"
        assert cause in state.cause
        fake.now_s += 10 * GONE_AFTER_S


@pytest.mark.parametrize(
    ("before", "out", "end", "host"),
    [
        (None, "", "?", ""),  # the daemon was begun anew: it may have run
        ("PENDING", "", "never started", ""),
        ("RUNNING", "", "?", "node1"),
        (None, "1|PENDING|0:0|None assigned\n", "never started", ""),
        ("PENDING", "1|PENDING|0:0|None assigned\n", "never started", ""),
        ("RUNNING", "1|PENDING|0:0|None assigned\n", "?", "node1"),
        (None, "1|RUNNING|0:0|node2\n", "?", "node2"),
        ("PENDING", "1|RUNNING|0:0|node2\n", "?", "node2"),
    ],
)
def test_a_job_that_slurmctld_has_lost_for_good_ends_after_a_minute(
    fake: FakeSlurm, before: str | None, out: str, end: str, host: str
) -> None:
    scheduler = fake.scheduler()
    if before:
        fake.queue(("1", before, "None"))
        polled(scheduler)
    fake.queue()
    fake.says("sacct", out)
    for _ in range(GONE_AFTER):
        assert polled(scheduler)[ONE].phase == "unknown"
    fake.now_s += GONE_AFTER_S - 0.1
    state = polled(scheduler)[ONE]
    assert (state.phase, state.end) == ("unknown", None)
    assert state.cause.startswith("job 1: ")
    fake.now_s += 0.1
    state = polled(scheduler)[ONE]
    assert (state.phase, state.end, state.host) == ("ended", end, host)
    assert "job 1 is lost" in state.cause
    assert (f"accounting has it as {out.split('|')[1]}" if out else "neither slurmctld nor accounting") in state.cause


def test_a_minute_alone_does_not_end_a_job_and_neither_does_one_in_which_something_did_not_answer(
    fake: FakeSlurm,
) -> None:
    scheduler = fake.scheduler()
    fake.says("sacct", "1|RUNNING|0:0|node1\n")

    def missed(times: int) -> str:
        fake.queue()
        return [polled(scheduler)[ONE].phase for _ in range(times)][-1]

    for _ in range(GONE_AFTER - 1):  # too few answers, however late
        assert missed(1) == "unknown"
        fake.now_s += 10 * GONE_AFTER_S
    fake.queue(("1", "RUNNING", "None"))
    assert polled(scheduler)[ONE].phase == "running"
    assert missed(2 * GONE_AFTER) == "unknown"  # too soon, however many
    fake.now_s += GONE_AFTER_S / 2
    fake.says("sacct", err=NO_SLURMDBD, code=1)
    assert missed(1) == "unknown"
    fake.says("sacct", "1|RUNNING|0:0|node1\n")
    fake.now_s += GONE_AFTER_S / 2  # slurmdbd is back, and may have to hear of the end yet
    assert missed(1) == "unknown"
    fake.says("squeue", err="slurm_load_jobs error: Unable to contact slurm controller", code=1)
    with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
        polled(scheduler)
    fake.now_s += GONE_AFTER_S / 2
    assert missed(1) == "ended"


PREEMPTED, NODE_FAIL, REQUEUED = "1|PREEMPTED|0:0|node1\n", "1|NODE_FAIL|0:0|node2\n", "1|REQUEUED|0:0|node3\n"
WAITS, RUNS = "1|PENDING|0:0|None assigned\n", "1|RUNNING|0:0|node1\n"


@pytest.mark.parametrize(
    ("restarts", "out", "expected"),
    [
        ("0", RUNS, None),
        ("1", PREEMPTED, "preempted"),
        ("1", PREEMPTED + WAITS, "preempted"),
        ("1", NODE_FAIL + RUNS, "node failed"),
        ("1", REQUEUED + RUNS, None),
        ("1", RUNS, None),  # accounting does not know yet
        ("1", "", None),
        ("2", PREEMPTED + NODE_FAIL + RUNS, "node failed"),
        ("2", NODE_FAIL + PREEMPTED, "preempted"),
        ("2", NODE_FAIL + RUNS, None),
        ("2", NODE_FAIL, None),
    ],
)
def test_of_a_requeued_job_accounting_tells_how_the_run_before_ended(
    fake: FakeSlurm, restarts: str, out: str, expected: str | None
) -> None:
    scheduler = fake.scheduler()
    fake.says("sacct", out)
    for job_is in ("PENDING", "RUNNING", "RUNNING"):
        fake.says("squeue", record("1", job_is, "None", restarts=restarts))
        assert polled(scheduler)[ONE].former_end == expected
    assert len(fake.asked("sacct")) == (restarts != "0")
    assert all("--duplicates" in line for line in fake.asked("sacct"))


def test_each_requeue_is_asked_about_once_also_when_accounting_does_not_answer(fake: FakeSlurm) -> None:
    scheduler = fake.scheduler()

    def told(restarts: str) -> list[str | None]:
        fake.now_s += LONGEST_S
        fake.says("squeue", record("1", "RUNNING", "None", restarts=restarts))
        return [polled(scheduler)[ONE].former_end for _ in range(2)]

    fake.says("sacct", NODE_FAIL + RUNS)
    assert told("1") == ["node failed", "node failed"]
    fake.says("sacct", err=NO_SLURMDBD, code=1)
    assert told("2") == [None, None]
    fake.says("sacct", err=NO_ACCOUNTING, code=1)
    assert told("3") == [None, None]
    assert len(fake.asked("sacct")) == 3


def test_without_accounting_a_job_is_over_when_several_answers_in_a_row_lack_it(fake: FakeSlurm) -> None:
    fake.says("sacct", err=NO_ACCOUNTING, code=1)
    scheduler = fake.scheduler()

    async def ask() -> None:
        fake.queue()
        for _ in range(GONE_AFTER - 1):
            assert (await scheduler.poll([ONE]))[ONE].phase == "unknown"
        fake.queue(("1", "RUNNING", "None"))  # it was only away for a moment: the count begins again
        assert (await scheduler.poll([ONE]))[ONE].phase == "running"
        fake.queue()
        for _ in range(GONE_AFTER - 1):
            assert (await scheduler.poll([ONE]))[ONE].phase == "unknown"
        fake.says("squeue", err="slurm_load_jobs error: Unable to contact slurm controller", code=1)
        with pytest.raises(SchedulerError, match="Unable to contact slurm controller"):
            await scheduler.poll([ONE])
        fake.now_s += LONGEST_S
        fake.queue()
        state = (await scheduler.poll([ONE]))[ONE]
        assert (state.phase, state.end) == ("ended", "?")
        assert "keeps no accounting" in state.cause

    asyncio.run(ask())


def test_a_poll_about_some_jobs_leaves_what_is_known_of_the_others(fake: FakeSlurm) -> None:
    fake.says("sacct", err=NO_ACCOUNTING, code=1)
    scheduler, other = fake.scheduler(), JobId("2")
    fake.queue(("2", "RUNNING", "None"))
    for _ in range(GONE_AFTER):
        assert polled(scheduler, other)[other].phase == "running"
        state = polled(scheduler, ONE)[ONE]
    assert (state.phase, state.end) == ("ended", "?")


def test_two_polls_about_different_jobs_at_once(fake: FakeSlurm) -> None:
    fake.says("squeue", record("2", "RUNNING", "None"))
    fake.says("sacct", "1|COMPLETED|0:0|node2\n")
    scheduler, other = fake.scheduler(), JobId("2")

    async def ask() -> list[Mapping[JobId, JobState]]:
        return await asyncio.gather(scheduler.poll([ONE]), *(scheduler.poll([other]) for _ in range(4)))

    told = asyncio.run(ask())
    assert [told[0][ONE].phase, *(each[other].phase for each in told[1:])] == ["ended"] + ["running"] * 4


class SlowAccounting:
    """A transport whose accounting answers when it is let."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.questions: list[str] = []

    async def submit(self, script: str) -> JobId:
        raise AssertionError(f"nothing is submitted here: {script}")

    async def queue(self) -> Collection[SlurmJob]:
        self.questions.append("queue")
        return [SlurmJob(job=JobId("2"), name="", state="RUNNING", host="node1", restarts=1)]

    async def history(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        self.questions.append(f"history {' '.join(jobs)}")
        return []

    async def runs(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        self.questions.append(f"runs {' '.join(jobs)}")
        self.asked.set()
        await self.answers.wait()
        return [SlurmJob(job=job, name="", state="PREEMPTED", host="node2") for job in jobs]

    async def cancel(self, job: JobId) -> None:
        raise AssertionError(f"nothing is cancelled here: {job}")

    async def close(self) -> None:
        raise AssertionError("nothing is closed here")


def test_polls_beside_one_that_waits_for_accounting_tell_the_same_as_it() -> None:
    async def play() -> None:
        slow, other = SlowAccounting(), JobId("2")
        scheduler = SlurmScheduler(slow, render=lambda _job, name: name)
        first = asyncio.create_task(scheduler.poll([other]))
        await slow.asked.wait()
        beside = [asyncio.create_task(scheduler.poll(jobs)) for jobs in ([ONE], [other], [ONE, other])]
        for _ in range(20):
            await asyncio.sleep(0)  # as far as they come
        assert slow.questions == ["queue", "runs 2"]
        slow.answers.set()
        states = [(await poll).get(other) for poll in (first, *beside)]
        assert [state and (state.restarts, state.former_end) for state in states] == [
            (1, "preempted"), None, (1, "preempted"), (1, "preempted"),
        ]  # fmt: skip
        assert slow.questions.count("runs 2") == 1

    asyncio.run(play())


def test_what_accounting_does_not_count_is_remembered_from_the_queue(fake: FakeSlurm) -> None:
    scheduler = fake.scheduler()
    fake.says("sacct", "1|COMPLETED|0:0|node2\n")

    async def ask() -> None:
        fake.says("squeue", record("1", "RUNNING", "None", restarts="2"))
        assert (await scheduler.poll([ONE]))[ONE].restarts == 2
        fake.queue()
        assert (await scheduler.poll([ONE]))[ONE].restarts == 2

    asyncio.run(ask())


def test_a_poll_with_a_thousand_jobs_of_ones_own_leaves_the_loop_free(fake: FakeSlurm) -> None:
    fake.queue(*[(str(n), "RUNNING", "None") for n in range(1, 1001)])
    scheduler = fake.scheduler()

    async def longest_pause() -> float:
        async with asyncio.TaskGroup() as group:
            poll = group.create_task(scheduler.poll([ONE]))
            longest, before = 0.0, time.monotonic()
            while not poll.done():
                await asyncio.sleep(0)
                longest, before = max(longest, time.monotonic() - before), time.monotonic()
        return longest

    asyncio.run(scheduler.poll([ONE]))
    assert min(asyncio.run(longest_pause()) for _ in range(3)) < 0.25
