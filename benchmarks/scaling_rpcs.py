"""What the batch scheduler is asked: commands and pyslurm's calls alike, counted over hours that take seconds.

The daemon's part that speaks with Slurm is the real one, with the settings of the shipped site ``slurm``, and pilots
that may be shorter: before each submission Slurm is asked which shape would start when. Slurm, the agents and the time
are simulated. Counts depend on no machine. An outage begins at several moments between two polls, and with everything
under way that asks most; the worst of them counts. ``hpcserve up`` waits for the job of a daemon by its own code.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.simulated_daemon import Daemon, scheduler_of, site_of
from benchmarks.simulated_slurm import GUESS, Slurm
from benchmarks.simulated_time import simulated, until
from hpcserve.cli import placed
from hpcserve.daemon.placement import daemon_job

T = TypeVar("T")

KINDS = ("commands", "pyslurm")
HOUR_S = 3600.0
AWAY_S = 300.0
SETTLED_S = 1200.0
"""After so long nothing has changed for a while, and polls are seldom."""
MOST = {
    "running_hour": 400,
    "idle_hour": 30,
    "up_waits_hour": 400,
    "outage_worst": 12,
    "lost": 0,
    "submitted_twice": 0,
    "polls_until_recovered": 1,
}
OFFSETS_S = (0.0, 3.0, 7.0, 11.0, 29.0, 61.0, 97.0)
EVENTS = ("nothing", "more wanted", "nothing wanted", "a pilot starts", "agents are missed", "nothing was there")
"""What happens while slurmctld is away."""


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What an outage cost. ``asked``: while it lasted. ``polls``: those after it until all was known again."""

    asked: int
    polls: int
    recovered_s: float
    lost: int
    submitted_twice: int


def run(*, kinds: Sequence[str] = KINDS, offsets_s: Sequence[float] = OFFSETS_S) -> dict[str, Any]:
    """Counts all of it, for each way to Slurm.

    Args:
        kinds: ``commands``, ``pyslurm``.
        offsets_s: An outage begins so long after a poll or after a pilot was ready, in turns.
    """
    return {kind: _counted(kind, offsets_s) for kind in kinds}


def _counted(kind: str, offsets_s: Sequence[float]) -> dict[str, Any]:
    outages = {event: [outage(kind, event, offset_s) for offset_s in offsets_s] for event in EVENTS}
    every = [each for several in outages.values() for each in several]
    return {
        "running_hour": running_hour(kind),
        "idle_hour": idle_hour(kind),
        "up_waits_hour": up_waits_hour(kind),
        "outage": {event: max(each.asked for each in several) for event, several in outages.items()},
        "outage_worst": max(each.asked for each in every),
        "lost": sum(each.lost for each in every),
        "submitted_twice": sum(each.submitted_twice for each in every),
        "polls_until_recovered": max(each.polls for each in every),
        "worst_recovered_s": round(max(each.recovered_s for each in every), 1),
        "flapping_hour": flapping_hour(kind),
        "crashing_hour": crashing_hour(kind),
        "full_hour": full_hour(kind),
    }


def targets() -> dict[str, str]:
    """What was promised, whichever way Slurm is asked."""
    return {name: f"<= {most}" for name, most in MOST.items()}


def reached(found: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """Whether each was, by all that were counted."""
    return {name: all(each[name] <= most for each in found.values()) for name, most in MOST.items()}


def played(slurm: Slurm, kind: str, scene: Callable[[Daemon], Awaitable[T]]) -> T:
    """A scene with a daemon of its own, in simulated time."""

    async def play() -> T:
        with tempfile.TemporaryDirectory() as place:
            async with Daemon(Path(place), slurm, kind) as daemon:
                return await scene(daemon)

    return simulated(play)


def running_hour(kind: str) -> int:
    """Questions in an hour with one pilot, from its submission on."""
    slurm = Slurm()

    async def scene(daemon: Daemon) -> int:
        began_s = time.monotonic()
        daemon.want(1)
        await asyncio.sleep(HOUR_S)
        assert daemon.knows("running")
        return slurm.count(began_s, time.monotonic()).total()

    return played(slurm, kind, scene)


def idle_hour(kind: str) -> int:
    """Questions in an hour with nothing queued or running, from the end of the last pilot on."""
    slurm = Slurm()

    async def scene(daemon: Daemon) -> int:
        daemon.want(1)
        await daemon.until_ready()
        daemon.want(0)
        await until(lambda: all(time.monotonic() >= job.ends_s for job in slurm.jobs.values()))
        began_s = time.monotonic()
        await asyncio.sleep(HOUR_S)
        assert not daemon.pilots.jobs
        return slurm.count(began_s, time.monotonic()).total()

    return played(slurm, kind, scene)


def up_waits_hour(kind: str) -> int:
    """Questions in an hour in which ``hpcserve up`` waits for the job of a daemon, which waits in the queue."""
    slurm = Slurm(wait_s=2 * HOUR_S)

    async def play() -> int:
        with tempfile.TemporaryDirectory() as place:
            site = site_of(Path(place))
            scheduler = scheduler_of(site, slurm, kind)
            job = await scheduler.submit(daemon_job(site, site.name))
            began_s = time.monotonic()
            waiting = asyncio.create_task(placed.until_ready(site, scheduler, job, None, was_there=False))
            await asyncio.sleep(HOUR_S)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            return slurm.count(began_s, time.monotonic()).total()

    return simulated(play)


def flapping_hour(kind: str) -> dict[str, int]:
    """Submissions, guesses and all questions of an hour in which every 20 s two replicas are wanted, or are not."""
    slurm = Slurm(wait_s=30.0)

    async def scene(daemon: Daemon) -> dict[str, int]:
        began_s = time.monotonic()
        for turn in range(180):
            daemon.want(2 if turn % 2 == 0 else 0)
            await asyncio.sleep(20.0)
        return _submissions(slurm, began_s)

    return played(slurm, kind, scene)


def crashing_hour(kind: str) -> dict[str, int]:
    """The same of an hour in which each pilot ends a second after its start, and somebody deploys again each minute."""
    slurm = Slurm(wait_s=1.0, lives_s=1.0)

    async def scene(daemon: Daemon) -> dict[str, int]:
        began_s = time.monotonic()
        for _ in range(60):
            daemon.want(2)
            await asyncio.sleep(60.0)
        return _submissions(slurm, began_s)

    return played(slurm, kind, scene)


def full_hour(kind: str) -> dict[str, int]:
    """The same of an hour in which pilots are wanted, and a limit lets Slurm take none; once it does, all are there."""
    slurm = Slurm(wait_s=1.0)
    slurm.is_full = True

    async def scene(daemon: Daemon) -> dict[str, int]:
        began_s = time.monotonic()
        daemon.want(2)
        await asyncio.sleep(HOUR_S)
        counted = _submissions(slurm, began_s)
        assert not daemon.pilots.jobs
        slurm.is_full = False
        await asyncio.sleep(HOUR_S / 4)
        assert daemon.knows("running")
        return counted

    return played(slurm, kind, scene)


def _submissions(slurm: Slurm, began_s: float) -> dict[str, int]:
    asked = slurm.count(began_s, time.monotonic())
    return {"submissions": asked["sbatch"] + asked["submit"], "guesses": asked[GUESS], "asked": asked.total()}


def outage(kind: str, event: str, offset_s: float) -> Outage:
    """Five minutes without slurmctld."""
    slurm = Slurm(wait_s=60.0)

    async def scene(daemon: Daemon) -> Outage:
        if event != "nothing was there":
            daemon.want(1)
            await daemon.until_ready()
        if event == "a pilot starts":
            daemon.want(2)
            await asyncio.sleep(50.0)
        elif offset_s > 10.0:
            await asyncio.sleep(SETTLED_S)  # polls are seldom
        await asyncio.sleep(offset_s)
        before = {pilot: job.name for pilot, job in daemon.pilots.jobs.items()}
        slurm.away_s = (time.monotonic(), time.monotonic() + AWAY_S)
        await _happens(daemon, event)
        await asyncio.sleep(max(0.0, slurm.away_s[1] - time.monotonic()))
        asked = slurm.count(*slurm.away_s).total()
        await until(lambda: daemon.pilots.jobs and not daemon.pilots.is_in_doubt, 0.25)
        known_s = time.monotonic()
        polled_s = [at_s for at_s in daemon.pilots.polled_s if at_s <= known_s]
        polls = sum(at_s >= slurm.away_s[1] for at_s in polled_s)
        lost = sum(
            name != daemon.pilots.jobs[pilot].name for pilot, name in before.items() if pilot in daemon.pilots.jobs
        )
        if event != "nothing wanted":
            lost += len(before.keys() - daemon.pilots.jobs.keys())
        await asyncio.sleep(HOUR_S / 4)
        names = [job.name for job in slurm.jobs.values()]
        return Outage(
            asked=asked,
            polls=polls,
            recovered_s=known_s - slurm.away_s[1],
            lost=lost,
            submitted_twice=len(names) - len(set(names)),
        )

    return played(slurm, kind, scene)


async def _happens(daemon: Daemon, event: str) -> None:
    """What happens meanwhile."""
    await asyncio.sleep(20.0)
    if event == "more wanted":
        daemon.want(2)
    elif event == "nothing wanted":
        daemon.want(0)
    elif event == "nothing was there":
        daemon.want(1)
    elif event == "agents are missed":
        for _ in range(50):
            daemon.scheduling.look()
            await asyncio.sleep(5.0)
