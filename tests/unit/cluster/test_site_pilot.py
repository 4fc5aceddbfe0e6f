"""A site's trial job: what is said of it, and that an interrupted trial leaves neither a job nor a file."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.simulated_time import simulated
from hpcserve import __version__
from hpcserve.cluster.probe import Report
from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.cluster.site_pilot import Look, died, houses, late, modest, reaches, read_report, report_of, try_pilot
from hpcserve.config import Network, Queue, Scheduler, load_site
from hpcserve.errors import SchedulerError
from hpcserve.types import PilotId


class Slow:
    """A scheduler that takes a job and does not get to say so, or never begins it."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.asked = asyncio.Event()
        self.jobs: dict[JobId, PilotId] = {}
        self.cancelled: list[JobId] = []

    async def submit(self, job: PilotJob) -> JobId:
        self.jobs[JobId("7")] = job.pilot
        self.jobs[JobId("8")] = PilotId("somebody-elses")
        if self.hangs:
            self.asked.set()
            await asyncio.Event().wait()
        return JobId("7")

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        self.asked.set()
        return {job: JobState(phase="queued") for job in jobs}

    async def find(self, tag: str) -> Mapping[JobId, PilotId]:
        assert tag == "check"
        return self.jobs

    async def cancel(self, job: JobId) -> None:
        self.cancelled.append(job)

    def retry_now(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("hangs", [True, False])
def test_an_interrupted_trial_leaves_neither_a_job_nor_a_file(tmp_path: Path, *, hangs: bool) -> None:
    async def scenario() -> None:
        scheduler = Slow(hangs=hangs)
        site = modest(msgspec.structs.replace(load_site("local"), shared_dir=tmp_path))
        trial = asyncio.create_task(try_pilot(site, scheduler, Look([]), timeout_s=60.0, judged=reaches))
        await scheduler.asked.wait()
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        assert scheduler.cancelled == ["7"]
        assert list(tmp_path.iterdir()) == []

    asyncio.run(scenario())


def test_its_job_is_as_small_as_may_be_whatever_pilots_may_be_made_smaller_to() -> None:
    site = msgspec.structs.replace(load_site("local"), scheduler=Scheduler(kind="slurm"))
    shape = {"launcher": "srun", "nodes": 4, "min_nodes": 2, "min_walltime_s": 1800.0, "walltime_s": 7200.0}
    pilots = modest(msgspec.structs.replace(site, pilots=msgspec.structs.replace(site.pilots, **shape))).pilots
    assert (pilots.nodes, pilots.walltime_s) == (1, 60.0)


def test_its_job_is_as_large_as_its_queue_wants_jobs_to_be() -> None:
    wants = Queue(min_nodes=10, min_walltime_s=300.0)
    site = msgspec.structs.replace(load_site("local"), scheduler=Scheduler(kind="pbs"), queues={"prod": wants})
    shape = {"launcher": "mpiexec", "nodes": 20, "walltime_s": 7200.0, "partition": "prod"}
    pilots = modest(msgspec.structs.replace(site, pilots=msgspec.structs.replace(site.pilots, **shape))).pilots
    assert (pilots.nodes, pilots.walltime_s) == (10, 300.0)


class Mute(Slow):
    """A scheduler that runs a job and can tell nothing of it."""

    async def submit(self, job: PilotJob) -> JobId:
        report = Report(host="n1", version=__version__, python="python")
        (job.directory / "report.json").write_bytes(msgspec.json.encode(report))
        return await super().submit(job)

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        raise SchedulerError(f"cannot read the answer of squeue about {len(jobs)} job")


def test_a_scheduler_that_cannot_tell_of_the_job_fails_the_check(tmp_path: Path) -> None:
    site = modest(msgspec.structs.replace(load_site("local"), shared_dir=tmp_path))
    first, *others = asyncio.run(try_pilot(site, Mute(hangs=False), Look([]), timeout_s=60.0, judged=reaches))
    assert (first.subject, first.outcome) == ("queue", "failed")
    assert first.told == "cannot read the answer of squeue about 1 job"
    assert {each.outcome for each in others} == {"ok"}


@pytest.mark.parametrize(
    ("seen", "outcome", "told"),
    [
        ({"listens": "10.0.0.7"}, "ok", "on n1 a daemon could listen at 10.0.0.7"),
        (
            {"listen_error": "'hsn9' is no interface"},
            "failed",
            "on n1, where a daemon could run: 'hsn9' is no",
        ),
        ({"listens": "127.0.0.1"}, "failed", "on n1, where a daemon could run: network.host is 127.0.0.1 there, which"),
        (
            {"listens": "10.0.0.7", "listen_error": "it is down"},
            "failed",
            "on n1, where a daemon could run: it is",
        ),
    ],
)
def test_what_a_node_says_of_a_daemon_there(seen: dict[str, Any], outcome: str, told: str) -> None:
    found, network = houses(Report(host="n1", version=__version__, python="python", **seen))
    assert (found.subject, found.outcome, found.told.startswith(told)) == ("interface", outcome, True)
    assert network.outcome == "skipped"


def test_of_a_node_that_did_not_try_nothing_is_said() -> None:
    (network,) = houses(Report(host="n1", version="0", python="python"))
    assert network.subject == "network"


def test_a_node_looks_for_the_commands_that_a_daemon_would_need_there(tmp_path: Path) -> None:
    lab = msgspec.structs.replace(load_site("local"), scheduler=Scheduler(kind="pbs"))
    look = Look([], commands=["sh", "no-such-qsub"])
    subprocess.run(look.argv(lab, report_of(tmp_path)), check=True, env={**os.environ, "PATH": "/usr/bin:/bin"})
    report = read_report(tmp_path)
    assert report is not None
    assert report.missing == ("no-such-qsub",)
    (failed, _) = houses(report)
    assert (failed.subject, failed.outcome) == ("commands", "failed")
    assert "no-such-qsub not found in PATH (/usr/bin:/bin); have pilots.setup make them found" in failed.told


@pytest.mark.parametrize(("host", "listens"), [("127.0.0.1", "127.0.0.1"), ("lo", "127.0.0.1"), ("nope0", "")])
def test_a_node_tries_to_listen_as_the_daemon_would(tmp_path: Path, host: str, listens: str) -> None:
    lab = msgspec.structs.replace(load_site("local"), network=Network(host=host))
    subprocess.run(Look([], is_home=True).argv(lab, report_of(tmp_path)), check=True)
    report = read_report(tmp_path)
    assert report is not None
    assert report.listens == listens
    assert report.listen_error.startswith("" if listens else "network.host: 'nope0' is no interface")
    assert bool(report.listen_error) != bool(listens)


class Queued(Slow):
    """A scheduler that begins the job after so long; it reports, or ends without a word."""

    def __init__(self, after_s: float, *, reports: bool) -> None:
        super().__init__(hangs=False)
        self.begins_s = time.monotonic() + after_s
        self.reports = reports
        self.asked_s: list[float] = []

    async def submit(self, job: PilotJob) -> JobId:
        if self.reports:
            report = msgspec.json.encode(Report(host="n1", version=__version__, python="python"))
            written = (job.directory / "report.json").write_bytes
            asyncio.get_running_loop().call_at(self.begins_s, lambda: written(report))
        return await super().submit(job)

    async def poll(self, jobs: Collection[JobId]) -> Mapping[JobId, JobState]:
        self.asked_s.append(time.monotonic())
        ended = time.monotonic() >= self.begins_s
        state = JobState(phase="ended", end="failed", cause="FAILED") if ended else JobState(phase="queued")
        return dict.fromkeys(jobs, state)


@pytest.mark.parametrize(("reports", "told"), [(True, "ran on n1"), (False, "it ended without a report: FAILED")])
def test_while_a_trial_waits_the_scheduler_is_asked_no_more_often_than_the_site_allows(
    tmp_path: Path, *, reports: bool, told: str
) -> None:
    slow = Scheduler(kind="slurm", poll_s=10.0, poll_max_s=120.0)
    site = modest(msgspec.structs.replace(load_site("local"), shared_dir=tmp_path, scheduler=slow))

    async def play() -> None:
        scheduler = Queued(595.0, reports=reports)
        first, *_ = await try_pilot(site, scheduler, Look([]), timeout_s=600.0, judged=reaches)
        assert first.told.startswith(told)
        if reports:
            assert time.monotonic() - scheduler.begins_s <= 2.0, "the report is looked for all the time"
        pauses = [later - sooner for sooner, later in itertools.pairwise(scheduler.asked_s)]
        assert min(pauses) >= slow.poll_s
        assert len(scheduler.asked_s) <= 10

    simulated(play)


@pytest.mark.parametrize(
    ("log", "hinted"),
    [
        ("/var/x: line 20: /nowhere/python: No such file or directory", True),
        ("/usr/bin/python3: No module named 'hpcserve'", True),
        ("hpcserve: a setup command of site lab failed with exit code 1: module load x", False),
        ("", False),
    ],
)
def test_a_python_that_will_not_do_is_told_by_its_field(log: str, *, hinted: bool) -> None:
    told = died(JobState(phase="ended", end="failed", cause="FAILED"), log)
    assert ("pilots.python" in told) is hinted
    assert "FAILED" in told


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        ("no node can ever fulfil what it asks for; lower pilots.nodes; PBS says: Can Never Run", "correct that, or"),
        ("Resources: others run there", "try again later, or with a longer --timeout"),
    ],
)
def test_who_has_to_correct_something_is_not_told_to_try_again_later(cause: str, says: str) -> None:
    told = late(JobState(phase="queued", cause=cause), 120.0)
    assert told.startswith(f"queued ({cause}) after 120 s, so it was cancelled; {says}")
