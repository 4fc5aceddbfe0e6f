"""``hpcserve up`` of a daemon that runs in a job takes no record that a daemon before has left behind."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from benchmarks.simulated_time import simulated
from hpcserve.cli import placed
from hpcserve.cluster.seam import JobId, JobState
from hpcserve.config import Scheduler as SchedulerSettings
from hpcserve.daemon.placement import NAME, tag_of
from hpcserve.daemon.record import write_record
from hpcserve.errors import HpcserveError
from hpcserve.types import Epoch
from hpcserve.wire.record import ServiceRecord
from tests.unit.daemon.scheduler_stage import NODE, Cluster, site

STALE = ServiceRecord(
    format=1,
    service="lab",
    site="lab",
    host=NODE,
    pid=7,
    epoch=Epoch(1 << 20),
    public_key="k" * 40,
    admission=("tcp://127.0.0.1:1",),
    front=("tcp://127.0.0.1:2",),
    back=("tcp://127.0.0.1:3",),
    software="hpcserve 0",
)
FRESH = msgspec.structs.replace(STALE, pid=8, epoch=Epoch(2 << 20))
QUEUED, RUNS = JobState(phase="queued", cause="Resources"), JobState(phase="running", host=NODE)


class Told(Cluster):
    """A scheduler that says one thing after another about the daemon's job; of None it does not answer."""

    def __init__(self, shared: Path, *says: JobState | None, writes_at: int) -> None:
        super().__init__()
        self.shared, self.says, self.writes_at = shared, list(says), writes_at
        self.writes = FRESH

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        self.silent = self.says[0] is None
        if self.polls == self.writes_at:
            write_record(self.shared, self.writes)
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        for job in jobs:
            self.become(job, said or RUNS)
        return await super().poll(jobs)


def brought_up(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_there: bool,
    says: Sequence[JobState | None],
    cancels_nothing: bool = False,
) -> int:
    """Brings up a daemon whose record comes with the last that the scheduler says; returns the pid that was taken."""
    lab = site(place)
    lab.shared_dir.mkdir()
    write_record(lab.shared_dir, STALE)
    cluster = Told(lab.shared_dir, *says, writes_at=len(says) - 1)
    cluster.cancels_nothing = cancels_nothing
    if is_there:
        cluster.take(tag_of(lab), NAME)
    monkeypatch.setattr("hpcserve.daemon.placement.open_placing", lambda _site: cluster)
    return simulated(lambda: placed._brought_up(lab, "local"))[1].pid


@pytest.mark.parametrize("says", [[QUEUED, None, QUEUED, None, RUNS], [QUEUED, None, None], [QUEUED, RUNS, RUNS]])
def test_a_new_job_is_not_ready_by_an_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: list[JobState | None]
) -> None:
    assert brought_up(tmp_path, monkeypatch, is_there=False, says=says) == FRESH.pid


@pytest.mark.parametrize("says", [[RUNS, None, None], [QUEUED, None, QUEUED, RUNS], [QUEUED, None, None, RUNS]])
def test_while_the_scheduler_does_not_answer_an_old_record_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: list[JobState | None]
) -> None:
    """Of a job that is there already the record may be the daemon's, or that of one which was killed."""
    assert brought_up(tmp_path, monkeypatch, is_there=True, says=says) == FRESH.pid


def test_the_record_of_a_job_that_runs_already_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert brought_up(tmp_path, monkeypatch, is_there=True, says=[RUNS, None, RUNS, RUNS, RUNS, RUNS]) == STALE.pid


@pytest.mark.parametrize("cancels_nothing", [True, False])
def test_why_it_did_not_start_is_told_though_its_job_cannot_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, cancels_nothing: bool
) -> None:
    says = [QUEUED, QUEUED, JobState(phase="ended", end="cancelled", cause="by the operator"), QUEUED]
    with pytest.raises(HpcserveError, match="ended before it was ready: by the operator"):
        brought_up(tmp_path, monkeypatch, is_there=False, says=says, cancels_nothing=cancels_nothing)
    told = "job 1 may begin all the same (scancel does not answer)" in capsys.readouterr().err
    assert told == cancels_nothing


SLOW = SchedulerSettings(kind="slurm", poll_s=10.0, poll_max_s=120.0)


class Asked(Cluster):
    """Notes when it was asked about a job."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_s: list[float] = []

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        self.asked_s.append(time.monotonic())
        return await super().poll(jobs)


def waited(place: Path, record: ServiceRecord, *, appears_s: float, runs_s: float) -> tuple[float, list[float]]:
    """When a daemon is taken for ready, and when the scheduler was asked; from the submission of its job on.

    Args:
        place: Where its files are.
        record: What it writes.
        appears_s: When it does.
        runs_s: When the scheduler begins to tell that its job runs.
    """
    lab = msgspec.structs.replace(site(place), scheduler=SLOW)
    lab.shared_dir.mkdir()
    write_record(lab.shared_dir, STALE)

    async def play() -> tuple[float, list[float]]:
        cluster, began_s = Asked(), time.monotonic()
        job = cluster.take(tag_of(lab), NAME, QUEUED)
        ready = asyncio.create_task(placed.until_ready(lab, cluster, job, STALE, was_there=False))
        for at_s in sorted((appears_s, runs_s)):
            await asyncio.sleep(began_s + at_s - time.monotonic())
            if at_s == appears_s:
                write_record(lab.shared_dir, record)
            else:
                cluster.become(job, RUNS)
        assert await ready == record
        return time.monotonic() - began_s, [at_s - began_s for at_s in cluster.asked_s]

    return simulated(play)


def test_a_daemon_that_starts_is_seen_by_its_record_however_seldom_the_scheduler_is_asked(tmp_path: Path) -> None:
    ready_s, asked_s = waited(tmp_path, FRESH, runs_s=1500.5, appears_s=1501.5)
    assert ready_s - 1501.5 <= placed.LOOK_S
    pauses = [later - sooner for sooner, later in itertools.pairwise(asked_s)]
    assert min(pauses) >= SLOW.poll_s
    assert max(pauses) == SLOW.poll_max_s
    assert len(asked_s) < 20


def test_a_record_that_proves_nothing_has_the_scheduler_asked_as_soon_as_the_site_allows(tmp_path: Path) -> None:
    """A daemon that ends has written it, in the lease that it had before."""
    again = msgspec.structs.replace(STALE, epoch=Epoch(STALE.epoch + 1))
    ready_s, asked_s = waited(tmp_path, again, runs_s=1506.5, appears_s=1501.5)
    assert 1501.5 < asked_s[-2] < 1506.5 < asked_s[-1] <= ready_s
    assert ready_s - 1506.5 <= SLOW.poll_s + placed.LOOK_S
