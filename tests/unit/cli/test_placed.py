"""``hpcserve up`` of a daemon that runs in a job takes no record that a daemon before has left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from hpcserve.cli import placed
from hpcserve.cluster.seam import JobId, JobState
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
    monkeypatch.setattr(placed, "POLL_S", 0.0)
    monkeypatch.setattr("hpcserve.daemon.placement.open_placing", lambda _site: cluster)
    return asyncio.run(placed._brought_up(lab, "local"))[1].pid


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
