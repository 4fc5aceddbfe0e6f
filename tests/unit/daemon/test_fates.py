"""What the scheduler's word counts for, beside what is heard of the pilot itself."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpcserve.cluster.script import SETUP_FAILED, begins
from hpcserve.cluster.seam import JobEnd, JobId, JobState
from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetbook import FleetPilot, ReplicaSaid
from hpcserve.core.fleetview import Policy, SubmitPilot
from hpcserve.core.rollout import Version
from hpcserve.core.succession import Succession
from hpcserve.daemon.controller.controller import Controller
from hpcserve.daemon.controller.failures import MOST_PILOTS, NEVER_READY, Failures, PilotFailures
from hpcserve.daemon.controller.fates import Fates
from hpcserve.daemon.controller.losses import Losses
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.registry.store import Store
from hpcserve.types import DeploymentName, PilotId, ReplicaId
from hpcserve.wire import exits
from tests.unit.daemon.scheduler_stage import Cluster, P, play

R, D = ReplicaId("d-1"), DeploymentName("d")


def books() -> Fleet:
    """With nobody in them."""
    return Fleet(
        policy=Policy(max_pilots=1, slots=1, idle_s=60.0),
        seed="s",
        restarts=lambda: Failures(NEVER_READY),
        pilot_restarts=PilotFailures(),
        succession=Succession(walltime_s=60.0, margin_s=0.0, first_wait_s=0.0),
    )


class Stage:
    """A pilot that an agent may have reported from, and what became of it."""

    def __init__(self, *, reported: bool, away: bool = False) -> None:
        self.ended: list[str] = []
        self.fleet = books()
        self.fleet.adopt_pilot(P, 1, 0.0)
        if reported:
            self.fleet.reported(P, (), ends_s=60.0, leaving=False, now=0.0)
        if away:
            self.fleet.away(P, 1.0)
        row = SimpleNamespace(public_key=None, restarts=0)
        self.job = SimpleNamespace(row=row, name="7", seen_s=0.0, ran_s=0.0)
        pilots: Any = SimpleNamespace(
            jobs={P: self.job}, output=lambda *_: "", forget=self._forget, note_end=self._note_end
        )
        agents: Any = SimpleNamespace(lose=lambda *_: None)
        self.fates = Fates(pilots, self.fleet, agents, self._act)

    def _forget(self, pilot: PilotId, cause: str) -> None:
        self.ended.append(cause)

    async def _note_end(self, pilot: PilotId, cause: str) -> None:
        assert self.ended[-1] == cause

    async def _act(self, actions: Iterable[object], shown: str) -> None:
        list(actions)

    def see(self, state: JobState) -> None:
        asyncio.run(self.fates.seen(P, state))


@pytest.mark.parametrize("end", ["?", "never started"])
def test_a_job_that_is_only_missing_has_not_ended_while_its_agent_is_there(end: JobEnd) -> None:
    stage = Stage(reported=True)
    stage.see(JobState(phase="ended", end=end, cause="nobody knows job 7"))
    assert stage.ended == []
    assert stage.fleet.pilots[P].phase == "running", "it does not keep others from being submitted"
    assert "its agent is there" in stage.fleet.pilots[P].waits_for


@pytest.mark.parametrize(("reported", "away"), [(False, False), (True, True)])
def test_without_its_agent_it_has(*, reported: bool, away: bool) -> None:
    stage = Stage(reported=reported, away=away)
    stage.see(JobState(phase="ended", end="?", cause="nobody knows job 7"))
    assert len(stage.ended) == 1
    assert P not in stage.fleet.pilots


def test_an_end_that_the_scheduler_tells_counts_at_once() -> None:
    stage = Stage(reported=True)
    stage.see(JobState(phase="ended", end="cancelled", cause="CANCELLED"))
    assert len(stage.ended) == 1


@pytest.mark.parametrize("name", [None, "7"])
def test_a_job_that_the_scheduler_never_named_says_nothing_of_pilots(name: str | None) -> None:
    stage = Stage(reported=False)
    stage.fleet.want(D, Version("v"), 1)
    stage.job.name = name
    for _ in range(MOST_PILOTS):
        stage.fleet.pilots[P] = FleetPilot(pilot=P, slots=1, idle_since_s=0.0)
        stage.see(JobState(phase="ended", end="never started", cause="no job of its name came up"))
    known = stage.fleet.deployments[D]
    assert known.failed == (name is not None)
    assert "no job of its name came up" in known.reason


@pytest.mark.parametrize("code", [exits.NO_ENROLMENT, exits.FAILED])
def test_a_run_that_ended_before_it_was_seen_and_let_in_says_nothing_of_pilots(code: int) -> None:
    stage = Stage(reported=False)
    stage.fleet.want(D, Version("v"), 1)
    for _ in range(MOST_PILOTS):
        stage.fleet.pilots[P] = FleetPilot(pilot=P, slots=1, idle_since_s=0.0)
        stage.see(JobState(phase="ended", end="failed", cause="FAILED", exit_code=code, restarts=1))
    assert stage.fleet.deployments[D].failed == (code != exits.NO_ENROLMENT)


def test_a_guess_of_the_start_goes_on_from_when_it_was_given() -> None:
    stage = Stage(reported=False)
    stage.job.seen_s = 1000.0
    stage.see(JobState(phase="queued", starts_in_s=60.0))
    assert stage.fleet.pilots[P].starts_s == 1060.0
    stage.see(JobState(phase="queued"))
    assert stage.fleet.pilots[P].starts_s is None


@pytest.mark.parametrize("asked", [False, True])
def test_one_that_was_to_end_and_was_requeued_unseen_holds_up_no_other(*, asked: bool) -> None:
    stage = Stage(reported=False)
    stage.fleet.want(D, Version("v"), 1)
    stage.fleet.pilots[P] = FleetPilot(pilot=P, slots=1, idle_since_s=0.0, asked=asked)
    stage.see(JobState(phase="ended", end="failed", cause="FAILED", exit_code=exits.NO_ENROLMENT, restarts=1))
    submitted = [each for each in stage.fleet.step(time.monotonic()) if isinstance(each, SubmitPilot)]
    assert len(submitted) == asked
    assert bool(stage.fleet.deployments[D].reason) != asked


# --- what is put back into the queue ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("away_s", "ran_s", "said", "kind"),
    [
        (None, 100.0, None, "requeued"),  # it goes without a word
        (None, 100.0, "preempted", "preempted"),
        (99.0, 100.0, None, "requeued"),  # its agent was killed for it
        (101.0, 100.0, None, "requeued"),
        (90.0, 100.0, None, "node failed"),  # its agent was gone, and the scheduler had not noticed yet
        (90.0, -math.inf, None, "requeued"),  # a daemon that has just begun has not seen it run
        (90.0, 100.0, "preempted", "preempted"),
    ],
)
def test_a_requeue_is_called_no_more_than_is_known(
    *, away_s: float | None, ran_s: float, said: JobEnd | None, kind: str
) -> None:
    stage = Stage(reported=True)
    stage.fleet.pilots[P].away_since_s = away_s
    stage.job.ran_s = ran_s
    found, cause, _ = stage.fates._older_run(P, JobState(phase="queued", restarts=1, former_end=said))
    put_back = "its pilot was put back into the queue"
    assert (found, cause) == (kind, put_back if kind == "requeued" else f"{put_back} ({kind})")


def test_a_pilot_runs_as_long_as_the_scheduler_says_so_of_this_run_of_it(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        before_s = time.monotonic()
        await pilots.poll()
        ran_s = pilots.jobs[P].ran_s
        assert ran_s >= before_s
        for state in (JobState(phase="queued"), JobState(phase="running", restarts=1), JobState(phase="unknown")):
            cluster.become(JobId("1"), state)
            await pilots.poll()
            assert pilots.jobs[P].ran_s == ran_s
        await pilots.requeued(P, 1)
        assert pilots.jobs[P].ran_s == -math.inf

    play(tmp_path, scene)


# --- the lines that show it -------------------------------------------------------------------------------


class Noting(Controller):
    """A controller that does nothing but to note losses."""

    def __init__(self, pilots: Pilots, logs: Path) -> None:
        self.pilots = pilots
        self.losses = Losses(logs)
        self.agents = SimpleNamespace(forget=lambda _: None, lose=lambda *_: None)  # type: ignore[assignment]
        self.fleet = books()
        self._changed = asyncio.Event()
        self.fates = Fates(pilots, self.fleet, self.agents, self._act)


PREEMPTED = "slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 2026-11-21T19:02:11 DUE TO PREEMPTION ***"
SHOWN = f"[pilot {P} printed: {PREEMPTED}]"


@pytest.mark.parametrize(
    "state",
    [
        JobState(phase="ended", end="preempted", cause="PREEMPTED"),
        JobState(phase="queued", restarts=1, former_end="preempted"),
        JobState(phase="running", restarts=1, host="node1"),
    ],
    ids=["ended", "requeued", "and begun anew"],
)
def test_the_log_of_a_lost_replica_has_the_lines_that_show_why(tmp_path: Path, state: JobState) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        logs = tmp_path / "shared" / "logs"
        logs.mkdir()
        again = f"{begins(1)}\nenrolled\n" if state.phase == "running" else ""
        (logs / f"{P}.log").write_text(f"{begins(0)}\nenrolled\n{PREEMPTED}\n{again}")
        await pilots.submit(P)
        controller = Noting(pilots, logs)
        controller.fleet.adopt_pilot(P, 1, 0.0)
        controller.fleet.adopt_replica(R, D, Version("v"), P)
        controller.fleet.reported(P, [ReplicaSaid(R, "ready")], ends_s=60.0, leaving=False, now=0.0)
        await controller.fates.seen(P, state)
        assert SHOWN in (logs / f"{R}.log").read_text().splitlines()

    play(tmp_path, scene)


def test_whoever_misses_a_pilot_sees_what_was_lost_with_it(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        logs = tmp_path / "shared" / "logs"
        logs.mkdir()
        await pilots.submit(P)
        controller = Noting(pilots, logs)
        controller.fleet.adopt_pilot(P, 1, 0.0)
        controller.fleet.adopt_replica(R, D, Version("v"), P)
        seen = asyncio.create_task(
            controller.fates.seen(P, JobState(phase="ended", end="cancelled", cause="CANCELLED"))
        )
        while P in pilots.jobs:
            assert not seen.done()
            await asyncio.sleep(0)
        (loss,) = controller.losses.views
        assert (loss.replica, loss.kind) == (R, "cancelled")
        await seen

    play(tmp_path, scene)


def test_nothing_that_an_earlier_run_printed_shows_why_a_later_one_ended(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        logs = tmp_path / "shared" / "logs"
        logs.mkdir()
        (logs / f"{P}.log").write_text(f"{begins(0)}\n{PREEMPTED}\n{begins(1)}\nenrolled\n")
        await pilots.submit(P)
        await pilots.requeued(P, 1)
        controller = Noting(pilots, logs)
        controller.fleet.adopt_pilot(P, 1, 0.0)
        controller.fleet.adopt_replica(R, D, Version("v"), P)
        await controller.fates.seen(P, JobState(phase="ended", end="cancelled", cause="CANCELLED", restarts=1))
        assert "printed" not in (logs / f"{R}.log").read_text()

    play(tmp_path, scene)


SETUP = "hpcserve: a setup command of site s failed with exit code 127: module load no-such-thing"
FAILED_SETUP = JobState(phase="ended", end="failed", cause="FAILED", exit_code=SETUP_FAILED, restarts=1)


@pytest.mark.parametrize("state", [FAILED_SETUP, replace(FAILED_SETUP, restarts=2, former_end="node failed")])
def test_each_run_of_one_that_was_requeued_and_ended_between_two_polls_explains_its_own_end(
    tmp_path: Path, state: JobState
) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        logs = tmp_path / "shared" / "logs"
        logs.mkdir()
        (logs / f"{P}.log").write_text(f"{begins(0)}\nenrolled\n{PREEMPTED}\n{begins(state.restarts)}\n{SETUP}\n")
        await pilots.submit(P)
        cluster.become(JobId("1"), state)
        controller = Noting(pilots, logs)
        controller.fleet.adopt_pilot(P, 1, 0.0)
        controller.fleet.adopt_replica(R, D, Version("v"), P)
        controller.fleet.reported(P, [ReplicaSaid(R, "ready")], ends_s=60.0, leaving=False, now=0.0)
        await controller.fates.seen(P, (await pilots.poll())[P])
        (loss,) = controller.losses.views
        assert (loss.kind, loss.cause) == ("preempted", "its pilot was put back into the queue (preempted)")
        assert SHOWN in (logs / f"{R}.log").read_text().splitlines()
        (row,) = await pilots._storage.do(Store.pilots)
        assert row.cause == SETUP.removeprefix("hpcserve: ")

    play(tmp_path, scene)


def test_a_requeue_that_cannot_be_written_down_is_tried_again(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        await pilots.submit(P)
        controller = Noting(pilots, tmp_path / "shared" / "logs")
        controller.fleet.adopt_pilot(P, 1, 0.0)
        (tmp_path / "shared").rename(tmp_path / "elsewhere")
        (tmp_path / "shared").write_text("in its place\n")
        await controller.fates.seen(P, JobState(phase="queued", restarts=1))
        assert pilots.jobs[P].row.restarts == 0
        (tmp_path / "shared").unlink()
        (tmp_path / "elsewhere").rename(tmp_path / "shared")
        await controller.fates.seen(P, JobState(phase="queued", restarts=1))
        assert pilots.jobs[P].row.restarts == 1

    play(tmp_path, scene)
