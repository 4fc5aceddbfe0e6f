"""The line of things to do at the scheduler: what is asked of it, in order, and what is told of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from hpcserve.cluster.seam import JobState
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.scheduling import Ears, Scheduling
from hpcserve.errors import HpcserveError, NoRoom
from hpcserve.types import PilotId
from tests.unit.daemon.scheduler_stage import Cluster, P, play


class Listener:
    """What the scheduling tells, in order."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, PilotId, object]] = []
        self.ears = Ears(seen=self._seen, refused=self._refused, dropped=self._dropped)

    async def _seen(self, pilot: PilotId, state: JobState) -> None:
        self.heard.append(("seen", pilot, state.phase))

    async def _refused(self, pilot: PilotId, error: HpcserveError) -> None:
        self.heard.append(("refused", pilot, type(error)))

    async def _dropped(self, pilot: PilotId) -> None:
        self.heard.append(("dropped", pilot, None))

    async def until(self, *what: tuple[str, PilotId, object]) -> None:
        while not set(what) <= set(self.heard):
            await asyncio.sleep(0.001)


def schedule(place: Path, scene: Callable[[Scheduling, Cluster, Listener], Awaitable[None]]) -> None:
    async def within(pilots: Pilots, cluster: Cluster) -> None:
        listener = Listener()
        scheduling = Scheduling(pilots, listener.ears, lambda: 0.01)
        working = asyncio.create_task(scheduling.run())
        try:
            async with asyncio.timeout(20.0):
                await scene(scheduling, cluster, listener)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    play(place, within)


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


def test_it_ends_although_it_is_called_at_that_moment(tmp_path: Path) -> None:
    async def within(pilots: Pilots, cluster: Cluster) -> None:  # noqa: ARG001 (it does as it is asked)
        listener = Listener()
        scheduling = Scheduling(pilots, listener.ears, lambda: 3600.0)
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
