"""Pilots at a scheduler that is slow to answer, forgets its answers, requeues jobs, or says nothing at all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hpcserve.cluster.seam import JobId, JobState
from hpcserve.core.breaker import LONGEST_S
from hpcserve.daemon.controller.job import service_tag
from hpcserve.daemon.controller.pilots import CANCEL_AGAIN_S, ENDED, Pilots
from hpcserve.errors import (
    AuthenticationError,
    ConfigError,
    Conflict,
    HpcserveError,
    JobRefused,
    NoRoom,
    SchedulerError,
    ServiceUnavailable,
    StorageFull,
    SubmissionUnknown,
)
from hpcserve.registry.store import Store
from hpcserve.types import PilotId
from tests.unit.daemon.scheduler_stage import NODE, Cluster, P, enrol, enrolment, play


def test_the_log_tells_the_life_of_a_pilot_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        await pilots.poll()
        cluster.silent = True
        await pilots.poll()
        cluster.silent = False
        await pilots.poll()
        await pilots.requeued(P, 1)
        await pilots.poll()
        await pilots.end(P, "its walltime is used up")
        await pilots.end(P, "its walltime is used up")

    with caplog.at_level("INFO", "hpcserve.daemon.controller.pilots"):
        play(tmp_path, scene)
    assert caplog.messages == [
        f"pilot {P} is submitted: job 1, nodes as the site says, 1 d 0 h",
        f"pilot {P} (job 1) has begun on {NODE}",
        f"pilot {P} (job 1) was put back into the queue; restarts: 1",
        f"pilot {P} (job 1) has begun on {NODE}",
        f"pilot {P} (job 1) has ended: its walltime is used up",
    ]


def test_a_submission_that_was_cut_off_is_found_by_its_tag(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        cluster.troubles, cluster.takes_it_all_the_same = [SubmissionUnknown("sbatch hung")], True
        await pilots.submit(P)
        assert pilots.jobs[P].name is None
        assert (await pilots.poll())[P].phase == "running"
        assert pilots.jobs[P].name == "1"

    play(tmp_path, scene)


def test_one_that_never_came_up_is_given_up_in_the_end_and_not_before(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        cluster.troubles = [SubmissionUnknown("sbatch hung")]
        await pilots.submit(P)
        assert (await pilots.poll())[P].phase == "unknown"
        job = pilots.jobs[P]
        for ago_s in (-86400.0, 86400.0):  # a clock that is set, and a lease that had to be waited for
            job.row = msgspec.structs.replace(job.row, submitted_s=time.time() - ago_s)
            assert (await pilots.poll())[P].phase == "unknown"
        job.since_s -= 61.0
        cluster.silent = True
        assert (await pilots.poll())[P].phase == "unknown", "nobody says that it is not there"
        cluster.silent = False
        state = (await pilots.poll())[P]
        assert (state.phase, state.end) == ("ended", "never started")
        assert state.cause.endswith("sbatch hung")

    play(tmp_path, scene)


def test_a_cancellation_of_one_without_a_name_waits_for_the_name(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        cluster.troubles = [SubmissionUnknown("sbatch hung")]
        await pilots.submit(P)
        await pilots.cancel(P)
        assert cluster.cancelled == []
        late = cluster.take(service_tag(tmp_path / "shared"), P)
        await pilots.poll()
        assert cluster.cancelled == [late]

    play(tmp_path, scene)


@pytest.mark.parametrize("fault", [StorageFull("no space left on device"), Conflict("another process holds it")])
def test_a_job_that_was_taken_and_cannot_be_written_down_is_not_told_as_refused(
    tmp_path: Path, fault: HpcserveError
) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        storage = pilots._storage

        async def do(work: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
            if work is Store.put_pilot:
                return await storage.do(work, *arguments)
            raise fault

        pilots._storage = SimpleNamespace(do=do)  # type: ignore[assignment]
        await pilots.submit(P)
        assert (await pilots.poll())[P].phase == "running"
        await pilots.end(P, "over")
        assert pilots.jobs == {}
        pilots._storage = storage
        nexts = Pilots(pilots._site, cluster, storage, tmp_path / "record")
        assert await nexts.recover() == [P], "its intent was written down"
        assert (await nexts.poll())[P].phase == "running"

    play(tmp_path, scene)


@pytest.mark.parametrize("trouble", [JobRefused("no such account"), NoRoom("QOS"), SchedulerError("silence")])
def test_a_pilot_that_was_not_taken_leaves_nothing(tmp_path: Path, trouble: SchedulerError) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        cluster.troubles = [trouble]
        with pytest.raises(type(trouble)):
            await pilots.submit(P)
        assert pilots.jobs == {}
        assert list((tmp_path / "shared" / "enrolments").iterdir()) == []

    play(tmp_path, scene)


def test_the_next_controller_takes_its_pilots_up_and_cancels_what_nobody_wrote_down(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        tag = service_tag(tmp_path / "shared")
        twin = cluster.take(tag, P)
        stranger = cluster.take(tag, PilotId("pilot-9"))
        cluster.take(tag, PilotId("pilot-8"), JobState(phase="ended", end="completed"))
        others = cluster.take("another", PilotId("pilot-7"))
        nexts = Pilots(pilots._site, cluster, pilots._storage, tmp_path / "record")
        assert await nexts.recover() == [P]
        assert nexts.jobs[P].state.phase == "unknown"
        cluster.silent = True
        assert (await nexts.poll())[P].phase == "unknown"
        cluster.silent = False
        assert (await nexts.poll())[P].phase == "running"
        assert cluster.cancelled == [twin, stranger]
        assert others not in cluster.cancelled

    play(tmp_path, scene)


def test_a_job_that_was_submitted_but_not_written_down_is_taken_up(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        await pilots._storage.do(Store.put_pilot, msgspec.structs.replace(pilots.jobs[P].row, job=None))
        nexts = Pilots(pilots._site, cluster, pilots._storage, tmp_path / "record")
        await nexts.recover()
        assert (await nexts.poll())[P].phase == "running"
        assert cluster.cancelled == []

    play(tmp_path, scene)


def test_a_requeued_pilot_is_another_incarnation_and_fences_the_one_before(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        await pilots.submit(P)
        first = enrolment(tmp_path)
        await enrol(pilots, first, b"a")
        assert await pilots.requeued(P, 1) == (b"a" * 32).hex()
        with pytest.raises(AuthenticationError, match="another incarnation"):
            await enrol(pilots, first, b"a")
        await pilots.poll()
        await enrol(pilots, enrolment(tmp_path, 1), b"b")
        assert pilots.jobs[P].row.restarts == 1
        await pilots.end(P, "over")
        assert list((tmp_path / "shared" / "enrolments").iterdir()) == []

    play(tmp_path, scene)


def test_a_requeue_for_which_the_state_disk_has_no_room_leaves_no_enrolment_and_is_tried_again(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        before, storage = pilots.jobs[P].row, pilots._storage
        enrolments = tmp_path / "shared" / "enrolments"
        read: list[str] = []

        async def full(*_: object) -> None:
            read.extend(path.name for path in enrolments.iterdir())
            raise StorageFull("no space left on device")

        pilots._storage = SimpleNamespace(do=full)  # type: ignore[assignment]
        with pytest.raises(StorageFull):
            await pilots.requeued(P, 1)
        assert pilots.jobs[P].row == before
        assert read == [path.name for path in enrolments.iterdir()] == [f"{P}.0.json"], "no agent could read it"
        pilots._storage = storage
        cluster.become(JobId("1"), JobState(phase="running", host=NODE, restarts=1))
        assert (await pilots.poll())[P].restarts > pilots.jobs[P].row.restarts, "the next poll says so again"
        await pilots.requeued(P, 1)
        await enrol(pilots, enrolment(tmp_path, 1), b"b")

    play(tmp_path, scene)


def test_one_whose_controller_ended_before_its_agent_was_told_is_begun_anew_by_the_next(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        await pilots.requeued(P, 1)
        nexts = Pilots(pilots._site, cluster, pilots._storage, tmp_path / "record")
        await nexts.recover()
        assert nexts.jobs[P].row.restarts == 1, "it was told"
        (tmp_path / "shared" / "enrolments" / f"{P}.1.json").unlink()
        await nexts.recover()
        assert nexts.jobs[P].row.restarts == 0
        await nexts.requeued(P, 1)
        await nexts.poll()
        await enrol(nexts, enrolment(tmp_path, 1), b"b")
        (tmp_path / "shared" / "enrolments" / f"{P}.1.json").unlink()
        await nexts.recover()
        assert nexts.jobs[P].row.restarts == 1, "its agent is there"

    play(tmp_path, scene)


def test_of_two_agents_with_one_secret_the_second_is_refused(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        await pilots.submit(P)
        await enrol(pilots, enrolment(tmp_path), b"a")
        await enrol(pilots, enrolment(tmp_path), b"a")
        with pytest.raises(AuthenticationError, match="used before"):
            await enrol(pilots, enrolment(tmp_path), b"b")

    play(tmp_path, scene)


def test_a_guess_of_a_start_comes_nearer_between_two_polls(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        job = pilots.jobs[P]
        assert job.starts_in_s is None
        cluster.become(JobId("1"), JobState(phase="queued", starts_in_s=100.0))
        await pilots.poll()
        assert job.starts_in_s == pytest.approx(100.0, abs=5.0)
        job.seen_s -= 60.0
        assert job.starts_in_s == pytest.approx(40.0, abs=5.0)
        job.seen_s -= 60.0
        assert job.starts_in_s is None, "it has not come true"

    play(tmp_path, scene)


@pytest.mark.parametrize(("host", "fits"), [("node1", True), ("node1.site.example", True), ("node2", False)])
def test_an_agent_runs_where_the_scheduler_says(tmp_path: Path, host: str, *, fits: bool) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        await pilots.submit(P)
        if fits:
            await enrol(pilots, enrolment(tmp_path), b"a", host)
            return
        with pytest.raises(AuthenticationError, match="runs on node1, this agent on node2"):
            await enrol(pilots, enrolment(tmp_path), b"a", host)

    play(tmp_path, scene)


def test_an_agent_comes_back_while_the_scheduler_does_not_say_where_it_runs(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        cluster.become(JobId("1"), JobState(phase="queued"))
        for _ in range(5):
            with pytest.raises(ServiceUnavailable):
                await enrol(pilots, enrolment(tmp_path), b"a")
        assert cluster.polls == 1, "it is asked no more often than polls may be"
        pilots._hosts._not_before_s -= 3600.0
        cluster.silent = True
        with pytest.raises(SchedulerError):
            await enrol(pilots, enrolment(tmp_path), b"a")

    play(tmp_path, scene)


def test_agents_that_come_at_a_time_cost_one_question(tmp_path: Path) -> None:
    names = [PilotId(f"pilot-{number}") for number in range(20)]

    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        for name in names:
            await pilots.submit(name)
        told = [json.loads((tmp_path / "shared" / "enrolments" / f"{name}.0.json").read_bytes()) for name in names]
        await asyncio.gather(
            *(
                pilots.enrol(PilotId(each["pilot"]), each["incarnation"], each["secret"], b"k" * 32, NODE)
                for each in told
            )
        )
        assert cluster.polls == 1
        assert all(job.row.public_key for job in pilots.jobs.values())

    play(tmp_path, scene)


def test_a_hundred_new_agents_of_which_the_scheduler_knows_some_hosts_only_later_cost_one_question_each_time(
    tmp_path: Path,
) -> None:
    names = [PilotId(f"pilot-{number}") for number in range(100)]

    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        for name in names:
            await pilots.submit(name)
        told = [json.loads((tmp_path / "shared" / "enrolments" / f"{name}.0.json").read_bytes()) for name in names]
        for job in list(cluster.jobs)[10:]:
            cluster.become(job, JobState(phase="queued"))

        async def let_in() -> int:
            asked = (
                pilots.enrol(PilotId(each["pilot"]), each["incarnation"], each["secret"], b"k" * 32, NODE)
                for each in told
            )
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(answer) for answer in answers} <= {type(None), ServiceUnavailable}
            return answers.count(None)

        assert await let_in() == 10
        assert cluster.polls == 1
        for job in list(cluster.jobs)[10:]:
            cluster.become(job, JobState(phase="running", host=NODE))
        assert await let_in() == 10, "nobody asks again so soon"
        assert cluster.polls == 1
        pilots._hosts._not_before_s -= 3600.0
        assert await let_in() == 100
        assert cluster.polls == 2

    play(tmp_path, scene)


def test_new_agents_of_a_scheduler_that_is_silent_cost_one_question(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        cluster.silent = True
        with pytest.raises(SchedulerError):
            await enrol(pilots, enrolment(tmp_path), b"a")
        for _ in range(5):
            with pytest.raises(ServiceUnavailable):
                await enrol(pilots, enrolment(tmp_path), b"a")
        assert cluster.polls == 1

    play(tmp_path, scene)


def test_the_directory_of_the_logs_is_made_again_where_somebody_has_removed_it(tmp_path: Path) -> None:
    logs = tmp_path / "shared" / "logs"

    async def scene(pilots: Pilots, _: Cluster) -> None:
        await pilots.submit(P)
        assert logs.stat().st_mode & 0o777 == 0o700
        logs.rmdir()
        await pilots.requeued(P, 1)
        assert logs.is_dir(), "a job that begins anew writes there, too"

    play(tmp_path, scene)


def test_where_the_logs_can_have_no_directory_no_pilot_is_submitted_and_it_is_said_why(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        (tmp_path / "shared" / "logs").write_text("in its place\n")
        with pytest.raises(ConfigError, match=r"/shared/logs is not a directory; move it away"):
            await pilots.submit(P)
        assert cluster.submissions == 0
        assert pilots.jobs == {}

    play(tmp_path, scene)


def test_a_faulty_shared_directory_ends_nothing(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        await pilots.submit(P)
        shared = tmp_path / "shared"
        shared.rename(tmp_path / "elsewhere")
        shared.write_text("in its place\n")
        before = pilots.jobs[P].row
        with pytest.raises(SchedulerError, match="cannot make directory .*; look at shared_dir"):
            await pilots.requeued(P, 1)
        assert pilots.jobs[P].row == before
        assert pilots.output(P, 0) == ""
        await pilots.end(P, "over")
        assert pilots.jobs == {}

    play(tmp_path, scene)


# --- cancelling -------------------------------------------------------------------------------------------


def test_a_cancellation_that_fails_when_the_job_is_found_is_tried_again(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        cluster.troubles, cluster.takes_it_all_the_same = [SubmissionUnknown("sbatch hung")], True
        await pilots.submit(P)
        await pilots.cancel(P)
        cluster.cancels_nothing = True
        assert (await pilots.poll())[P].phase == "running", "what else the scheduler says is heard"
        cluster.cancels_nothing = False
        later(pilots)
        await pilots.poll()
        assert cluster.cancelled == ["1"]

    play(tmp_path, scene)


def test_what_was_cancelled_and_is_still_there_is_cancelled_again_but_not_at_once(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        await pilots.cancel(P)
        await pilots.poll()
        assert cluster.cancelled == ["1"]
        later(pilots)
        await pilots.poll()
        await pilots.poll()
        assert cluster.cancelled == ["1", "1"]

    play(tmp_path, scene)


def test_one_that_is_requeued_while_it_is_to_end_is_cancelled_again(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        await pilots.cancel(P)
        await pilots.requeued(P, 1)
        cluster.become(JobId("1"), JobState(phase="queued", restarts=1))
        await pilots.poll()
        assert cluster.cancelled == ["1", "1"]

    play(tmp_path, scene)


def test_while_the_end_of_one_hangs_the_others_go_first(tmp_path: Path) -> None:
    names = [PilotId(f"pilot-{number}") for number in (1, 2, 3)]

    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        for name in names:
            await pilots.submit(name)
        cluster.undying = {JobId("1")}
        for name in names:
            with pytest.raises(SchedulerError):
                await pilots.cancel(name)
            cluster.meanwhile = False
        await pilots.poll()
        assert cluster.calls == ["1", "poll"], "two were not asked for, and the other one only just before"
        cluster.meanwhile = True
        waited_s = 2 * LONGEST_S
        for job in pilots.jobs.values():
            assert job.cancel_at_s is not None
            job.cancel_at_s -= waited_s
        await pilots.poll()
        assert cluster.calls == ["1", "poll", "poll", "2", "3", "1"]

    play(tmp_path, scene)


def test_a_job_of_nobody_that_cannot_be_ended_hides_no_pilot_and_is_tried_again(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        stranger = cluster.take(service_tag(tmp_path / "shared"), PilotId("pilot-9"))
        cluster.undying = {stranger}
        assert (await pilots.poll())[P].phase == "running"
        cluster.undying = set()
        await pilots.poll()
        await pilots.poll()
        assert cluster.cancelled == [stranger]

    play(tmp_path, scene)


def later(pilots: Pilots) -> None:
    """Time passes for the jobs that are to end."""
    for job in pilots.jobs.values():
        assert job.cancel_at_s is not None
        assert job.cancel_at_s > time.monotonic()
        job.cancel_at_s -= CANCEL_AGAIN_S + 60.0


# --- what happens while an agent enrols -------------------------------------------------------------------


def test_an_agent_of_the_incarnation_before_enrols_while_its_pilot_is_requeued(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        await pilots.submit(P)
        await pilots.poll()
        requeued = asyncio.create_task(pilots.requeued(P, 1))
        await asyncio.sleep(0)
        with pytest.raises(AuthenticationError, match="another incarnation"):
            await enrol(pilots, enrolment(tmp_path), b"a")
        await requeued
        (row,) = await pilots._storage.do(Store.pilots)
        assert row.public_key is None
        assert row == pilots.jobs[P].row

    play(tmp_path, scene)


def test_an_agent_whose_pilot_ends_while_it_enrols_is_not_let_in(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        await pilots.submit(P)
        await pilots.poll()
        enrolling = asyncio.create_task(enrol(pilots, enrolment(tmp_path), b"a"))
        await asyncio.sleep(0)
        await pilots.end(P, "over")
        with pytest.raises(AuthenticationError, match="ended meanwhile"):
            await enrolling
        (row,) = await pilots._storage.do(Store.pilots)
        assert row.state == ENDED

    play(tmp_path, scene)
