"""The line of things to do at the scheduler: what is asked of it, in order, and what is told of the answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hpcserve.cluster.seam import JobId, JobState, PilotJob
from hpcserve.core.breaker import FIRST_S
from hpcserve.core.polling import PollPace
from hpcserve.core.ratelimit import Bucket
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.scheduling import IN_DOUBT, TOO_MANY, Ears, Scheduling
from hpcserve.errors import HpcserveError, JobRefused, NoRoom, SchedulerError, StorageFull, SubmissionUnknown
from hpcserve.types import PilotId
from tests.unit.daemon.scheduler_stage import Cluster, P, play


class Listener:
    """What the scheduling tells, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, PilotId, object]] = []
        self.ears = Ears(seen=self._seen, refused=self._refused, dropped=self._dropped, waits=self._waits)

    async def _seen(self, pilot: PilotId, state: JobState) -> None:
        self.heard.append(("seen", pilot, state.phase))

    async def _refused(self, pilot: PilotId, error: HpcserveError) -> None:
        self.heard.append(("refused", pilot, type(error)))

    async def _dropped(self, pilot: PilotId) -> None:
        self.heard.append(("dropped", pilot, None))

    def _waits(self, pilot: PilotId, why: str) -> None:
        if why:
            self.heard.append(("waits", pilot, why))

    async def until(self, *what: tuple[str, PilotId, object]) -> None:
        while not set(what) <= set(self.heard):
            await asyncio.sleep(0.001)


def schedule(
    place: Path,
    scene: Callable[[Scheduling, Cluster, Listener], Awaitable[None]],
    *,
    most_s: float = 0.0,
    per_s: float = float("inf"),
    cluster: type[Cluster] = Cluster,
) -> None:
    """A scene with pilots that are polled every 10 ms, up to ``most_s``, and submitted so often, after a first one."""

    async def within(pilots: Pilots, there: Cluster) -> None:
        listener = Listener()
        bucket = None if per_s == float("inf") else Bucket(per_s, 1.0, time.monotonic())
        scheduling = Scheduling(pilots, listener.ears, PollPace(lambda: 0.01, most_s), bucket=bucket)
        working = asyncio.create_task(scheduling.run())
        try:
            async with asyncio.timeout(20.0):
                await scene(scheduling, there, listener)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    play(place, within, cluster=cluster)


def test_pilots_are_submitted_polled_and_cancelled(tmp_path: Path) -> None:
    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        scheduling.submit(P)
        await listener.until(("seen", P, "running"))
        cluster.silent = True
        await listener.until(("seen", P, "unknown"))
        scheduling.cancel(P)
        await asyncio.sleep(0.01)
        assert cluster.cancelled == []
        cluster.silent = False
        while not cluster.cancelled:
            await asyncio.sleep(0.001)
        assert cluster.cancelled == ["1"]

    schedule(tmp_path, scene)


def test_what_is_not_taken_is_told(tmp_path: Path) -> None:
    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        cluster.troubles = [NoRoom("full")]
        scheduling.submit(P)
        await listener.until(("refused", P, NoRoom))

    schedule(tmp_path, scene)


@pytest.mark.parametrize("trouble", [NoRoom, SchedulerError, JobRefused, StorageFull])
def test_where_one_is_not_taken_the_rest_of_the_line_is_not_tried(tmp_path: Path, trouble: type[HpcserveError]) -> None:
    pilots = [PilotId(f"pilot-{number}") for number in range(1, 21)]

    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        cluster.troubles = [trouble("not now")]
        for pilot in pilots:
            scheduling.submit(pilot)
        # A refusal that lasts counts once.
        rest = SchedulerError if trouble is JobRefused else trouble
        await listener.until(("refused", pilots[0], trouble), *(("refused", pilot, rest) for pilot in pilots[1:]))
        assert cluster.submissions == 1
        again = PilotId("pilot-21")
        scheduling.submit(again)
        await listener.until(("seen", again, "running"))
        assert cluster.submissions == 2

    schedule(tmp_path, scene)


class Slow(Cluster):
    """Takes jobs, says when they would start and cancels them once ``may_go``; ``busy``: it is at it."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.may_go = asyncio.Event(), asyncio.Event()

    async def shaped(self, job: PilotJob) -> PilotJob:
        await self._work()
        return job

    async def submit(self, job: PilotJob) -> JobId:
        await self._work()
        return await super().submit(job)

    async def cancel(self, job: JobId) -> None:
        await self._work()
        await super().cancel(job)

    async def _work(self) -> None:
        self.busy.set()
        await self.may_go.wait()


def test_what_is_cancelled_while_the_line_is_worked_off_is_never_submitted(tmp_path: Path) -> None:
    first, second, third = (PilotId(f"pilot-{number}") for number in (1, 2, 3))

    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        assert isinstance(cluster, Slow)
        for pilot in (first, second, third):
            scheduling.submit(pilot)
        await cluster.busy.wait()
        scheduling.cancel(second)
        cluster.may_go.set()
        await listener.until(("dropped", second, None), ("seen", third, "running"))
        assert [pilot for _, pilot, _ in cluster.jobs.values()] == [first, third]
        assert cluster.cancelled == []

    schedule(tmp_path, scene, cluster=Slow)


def test_what_is_cancelled_while_its_shape_is_asked_for_is_never_submitted(tmp_path: Path) -> None:
    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        assert isinstance(cluster, Slow)
        scheduling._pilots._shaped = cluster.shaped
        scheduling.submit(P)
        await cluster.busy.wait()
        scheduling.cancel(P)
        cluster.may_go.set()
        await listener.until(("dropped", P, None))
        assert cluster.submissions == 0

    schedule(tmp_path, scene, cluster=Slow)


def test_what_is_cancelled_while_it_is_handed_in_is_cancelled_at_the_scheduler(tmp_path: Path) -> None:
    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        assert isinstance(cluster, Slow)
        scheduling.submit(P)
        await cluster.busy.wait()
        scheduling.cancel(P)
        cluster.may_go.set()
        await listener.until(("seen", P, "running"))
        assert cluster.cancelled == ["1"]

    schedule(tmp_path, scene, cluster=Slow)


def test_what_was_being_handed_in_when_the_daemon_began_to_end_is_looked_for(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        assert isinstance(cluster, Slow)
        handing_in = asyncio.create_task(pilots.submit(P))
        await cluster.busy.wait()
        handing_in.cancel()
        await asyncio.gather(handing_in, return_exceptions=True)
        assert (await pilots.poll())[P].phase == "unknown", "slurmctld may be at it still"
        cluster.take((await pilots.job_of(P)).tag, P)
        await pilots.poll()
        assert pilots.jobs[P].name == "1"

    play(tmp_path, scene, cluster=Slow)


def test_what_is_cancelled_in_the_line_while_another_one_is_cancelled_is_never_submitted(tmp_path: Path) -> None:
    first, second, third = (PilotId(f"pilot-{number}") for number in (1, 2, 3))

    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        assert isinstance(cluster, Slow)
        cluster.may_go.set()
        for pilot in (first, second, third):
            scheduling.submit(pilot)
        await listener.until(("seen", first, "running"), ("waits", third, TOO_MANY))
        cluster.busy.clear()
        cluster.may_go.clear()
        scheduling.cancel(first)
        await cluster.busy.wait()
        scheduling.cancel(second)
        cluster.may_go.set()
        await listener.until(("dropped", second, None), ("seen", third, "running"))
        assert [pilot for _, pilot, _ in cluster.jobs.values()] == [first, third]
        assert cluster.cancelled == ["1"]

    schedule(tmp_path, scene, per_s=2.0, cluster=Slow)


def test_what_is_cancelled_before_its_turn_is_never_submitted(tmp_path: Path) -> None:
    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        scheduling.submit(P)
        scheduling.cancel(P)
        await listener.until(("dropped", P, None))
        assert cluster.jobs == {}
        assert cluster.cancelled == []

    schedule(tmp_path, scene)


def test_who_takes_the_daemon_down_does_not_wait_for_a_scheduler_that_is_left_alone(tmp_path: Path) -> None:
    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        scheduling.submit(P)
        await listener.until(("seen", P, "running"))
        cluster.left_alone = True
        await listener.until(("seen", P, "unknown"))
        ending = asyncio.create_task(scheduling.end_all(20.0))
        while not cluster.cancelled:
            await asyncio.sleep(0.001)
        (name,) = cluster.cancelled
        cluster.become(name, JobState(phase="ended", end="cancelled"))
        await ending

    schedule(tmp_path, scene)


def test_a_job_that_cannot_be_ended_hides_no_news_of_the_others_and_is_seldom_tried(tmp_path: Path) -> None:
    other = PilotId("pilot-2")

    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        cluster.undying = {JobId("1")}
        for pilot in (P, other):
            scheduling.submit(pilot)
        await listener.until(("seen", other, "running"))
        began_s, polls = time.monotonic(), cluster.polls
        scheduling.cancel(P)
        while cluster.polls < polls + 20:
            await asyncio.sleep(0.001)
        assert 1 <= cluster.calls.count("1") <= 1 + (time.monotonic() - began_s) / FIRST_S
        cluster.become(JobId("2"), JobState(phase="ended", end="completed"))
        await listener.until(("seen", other, "ended"))
        cluster.undying = set()
        while not cluster.cancelled:
            await asyncio.sleep(0.001)

    schedule(tmp_path, scene)


def test_it_asks_what_has_become_of_all_jobs_before_it_ends_one(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        await pilots.submit(P)
        scheduling = Scheduling(pilots, Listener().ears, PollPace(lambda: 3600.0, 3600.0))
        scheduling.cancel(P)
        working = asyncio.create_task(scheduling.run())
        while not cluster.cancelled:
            await asyncio.sleep(0.001)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert cluster.calls == ["poll", "1"]

    play(tmp_path, scene)


def test_one_job_that_cannot_be_ended_keeps_no_other_when_the_daemon_goes_down(tmp_path: Path) -> None:
    async def scene(pilots: Pilots, cluster: Cluster) -> None:
        for number in (1, 2, 3):
            await pilots.submit(PilotId(f"pilot-{number}"))
        cluster.undying = {JobId("1")}
        scheduling = Scheduling(pilots, Listener().ears, PollPace(lambda: 0.01, 0.01))
        ending = asyncio.create_task(scheduling.end_all(20.0))
        while cluster.polls < 20:
            await asyncio.sleep(0.001)
        assert cluster.calls[:4] == ["1", "2", "3", "poll"]
        cluster.undying = set()
        while set(cluster.cancelled) < {"1", "2", "3"}:
            await asyncio.sleep(0.001)
        for name in cluster.cancelled:
            cluster.become(name, JobState(phase="ended", end="cancelled"))
        await ending
        assert pilots.jobs == {}

    play(tmp_path, scene)


class Leisurely(Cluster):
    """It takes half a second to take a cancellation; what is cancelled has ended."""

    async def cancel(self, job: JobId) -> None:
        await asyncio.sleep(0.5)
        await super().cancel(job)
        self.become(job, JobState(phase="ended", end="cancelled"))


@pytest.mark.parametrize(("asking_s", "left"), [(60.0, 0), (0.0, 6)])
def test_a_scheduler_that_takes_its_time_has_it(tmp_path: Path, asking_s: float, left: int) -> None:
    async def scene(pilots: Pilots, _: Cluster) -> None:
        for number in range(6):
            await pilots.submit(PilotId(f"pilot-{number}"))
        scheduling = Scheduling(pilots, Listener().ears, PollPace(lambda: 0.01, 0.01))
        await scheduling.end_all(2.0, asking_s=asking_s)
        assert len(pilots.jobs) == left, "none was asked for before all were cancelled"

    play(tmp_path, scene, cluster=Leisurely)


def test_more_submissions_than_the_site_allows_wait_in_the_line(tmp_path: Path) -> None:
    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        began_s = time.monotonic()
        for number in range(1, 5):
            scheduling.submit(PilotId(f"pilot-{number}"))
        await listener.until(("waits", PilotId("pilot-4"), TOO_MANY), ("seen", PilotId("pilot-4"), "running"))
        assert time.monotonic() - began_s >= 3 / 2 - 0.001
        assert [pilot for _, pilot, _ in cluster.jobs.values()] == [f"pilot-{number}" for number in range(1, 5)]

    schedule(tmp_path, scene, per_s=2.0)


def test_what_is_cancelled_while_it_waits_its_turn_is_never_submitted(tmp_path: Path) -> None:
    first, second, third = (PilotId(f"pilot-{number}") for number in (1, 2, 3))

    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        for pilot in (first, second, third):
            scheduling.submit(pilot)
        await listener.until(("waits", third, TOO_MANY))
        scheduling.cancel(third)
        await listener.until(("dropped", third, None))
        assert [pilot for _, pilot, _ in cluster.jobs.values()] == [first]
        assert cluster.cancelled == []

    schedule(tmp_path, scene, per_s=1 / 3600)


def test_nothing_is_submitted_while_the_scheduler_does_not_answer(tmp_path: Path) -> None:
    other = PilotId("pilot-2")

    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        scheduling.submit(P)
        await listener.until(("seen", P, "running"))
        cluster.silent = True
        await listener.until(("seen", P, "unknown"))
        scheduling.submit(other)
        await listener.until(("waits", other, IN_DOUBT))
        assert cluster.submissions == 1
        cluster.silent = False
        await listener.until(("seen", other, "running"))

    schedule(tmp_path, scene)


def test_nothing_is_submitted_while_one_submission_is_in_doubt(tmp_path: Path) -> None:
    other = PilotId("pilot-2")

    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        cluster.troubles, cluster.takes_it_all_the_same = [SubmissionUnknown("it was cut off")], True
        scheduling.submit(P)
        scheduling.submit(other)
        await listener.until(("waits", other, IN_DOUBT), ("seen", P, "running"), ("seen", other, "running"))
        assert [pilot for _, pilot, _ in cluster.jobs.values()] == [P, other]

    schedule(tmp_path, scene)


def test_it_polls_seldom_while_there_is_no_news_and_at_once_when_somebody_asks(tmp_path: Path) -> None:
    async def scene(scheduling: Scheduling, cluster: Cluster, listener: Listener) -> None:
        began_s = time.monotonic()
        scheduling.submit(P)
        while cluster.polls < 7:
            await asyncio.sleep(0.001)
        (name,) = cluster.jobs
        cluster.become(name, JobState(phase="ended", end="completed"))
        scheduling.look()
        await listener.until(("seen", P, "ended"))
        # Those that nobody asked for: each pause is twice the one before.
        assert cluster.polls - 1 <= 3 + math.log2((time.monotonic() - began_s) / 0.01)

    schedule(tmp_path, scene, most_s=3600.0)


def test_it_ends_although_it_is_called_at_that_moment(tmp_path: Path) -> None:
    async def within(pilots: Pilots, cluster: Cluster) -> None:  # noqa: ARG001 (it does as it is asked)
        listener = Listener()
        scheduling = Scheduling(pilots, listener.ears, PollPace(lambda: 3600.0, 3600.0))
        working = asyncio.create_task(scheduling.run())
        scheduling.submit(P)
        async with asyncio.timeout(20.0):
            await listener.until(("seen", P, "running"))
        await asyncio.sleep(0)
        scheduling.look()
        working.cancel()
        await asyncio.wait({working}, timeout=5.0)
        assert working.cancelled()

    play(tmp_path, within)
