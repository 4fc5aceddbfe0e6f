"""Which way to Slurm is taken: pyslurm where it is usable, else the commands; a wanted one that is not, is an error."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Literal

import pytest

from hpcserve.cluster.seam import JobId
from hpcserve.cluster.slurm_jobs import SlurmJob
from hpcserve.cluster.slurm_transport import ChosenTransport
from hpcserve.errors import SchedulerError


class Recorder:
    """A transport that knows its name and what was asked of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[str] = []

    async def submit(self, script: str) -> JobId:
        self.calls.append(f"submit {script}")
        return JobId(self.name)

    async def queue(self) -> Collection[SlurmJob]:
        self.calls.append("queue")
        return [SlurmJob(job=JobId("1"), name=self.name, state="RUNNING")]

    async def history(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        self.calls.append(f"history {' '.join(jobs)}")
        return [SlurmJob(job=JobId("2"), name=self.name, state="FAILED")]

    async def runs(self, jobs: Collection[JobId]) -> Collection[SlurmJob]:
        self.calls.append(f"runs {' '.join(jobs)}")
        return [SlurmJob(job=JobId("2"), name=self.name, state="PREEMPTED")]

    async def cancel(self, job: JobId) -> None:
        self.calls.append(f"cancel {job}")

    async def close(self) -> None:
        self.calls.append("close")


class Choice:
    def __init__(self, wanted: Literal["auto", "pyslurm", "commands"], *, unusable: str = "") -> None:
        self.asked = 0
        self.unusable = unusable
        self.made: list[Recorder] = []
        self.transport = ChosenTransport(
            wanted,
            commands=lambda: self._make("commands"),
            pyslurm=lambda: self._make("pyslurm"),
            unusable=self._why,
        )

    def _make(self, name: str) -> Recorder:
        self.made.append(Recorder(name))
        return self.made[-1]

    async def _why(self) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        return self.unusable


@pytest.mark.parametrize(
    ("wanted", "unusable", "taken", "asked"),
    [
        ("auto", "", "pyslurm", 1),
        ("auto", "no module", "commands", 1),
        ("pyslurm", "", "pyslurm", 1),
        ("commands", "", "commands", 0),
    ],
)
def test_one_is_chosen_once_and_does_everything(
    wanted: Literal["auto", "pyslurm", "commands"], unusable: str, taken: str, asked: int
) -> None:
    choice = Choice(wanted, unusable=unusable)

    async def use() -> None:
        first, second = await asyncio.gather(choice.transport.submit("s"), choice.transport.queue())
        assert (first, [job.name for job in second]) == (taken, [taken])
        assert [job.state for job in await choice.transport.history([JobId("2")])] == ["FAILED"]
        assert [job.state for job in await choice.transport.runs([JobId("2")])] == ["PREEMPTED"]
        await choice.transport.cancel(JobId("3"))
        await choice.transport.close()

    asyncio.run(use())
    (made,) = choice.made
    assert made.calls == ["submit s", "queue", "history 2", "runs 2", "cancel 3", "close"]
    assert choice.asked == asked


def test_pyslurm_where_it_cannot_be_used_is_an_error_with_the_reason_until_it_can() -> None:
    choice = Choice("pyslurm", unusable="there is no module pyslurm")
    with pytest.raises(
        SchedulerError, match=r'scheduler\.transport: "pyslurm" cannot be used here: there is no module'
    ):
        asyncio.run(choice.transport.queue())
    assert choice.made == []
    choice.unusable = ""
    asyncio.run(choice.transport.queue())
    assert [made.name for made in choice.made] == ["pyslurm"]


def test_closing_what_was_never_used_chooses_nothing() -> None:
    choice = Choice("auto")
    asyncio.run(choice.transport.close())
    assert (choice.asked, choice.made) == (0, [])
