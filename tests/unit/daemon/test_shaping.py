"""The shape of a pilot from the scheduler's guesses to the job, the agent's enrolment and the next controller."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import msgspec
import pytest

from hpcserve.cluster.seam import PilotJob
from hpcserve.config import Queue, Site
from hpcserve.core.fleet import Fleet
from hpcserve.core.fleetview import Policy
from hpcserve.core.ratelimit import Bucket
from hpcserve.core.rollout import Version
from hpcserve.core.shapes import Shape
from hpcserve.core.succession import Succession
from hpcserve.core.width import Ranks
from hpcserve.daemon.controller.job import pilot_job
from hpcserve.daemon.controller.pilots import Pilots
from hpcserve.daemon.controller.shaping import GUESS_HOLDS_S, Shaping, bounds_of
from hpcserve.daemon.controller.storage import Storage
from hpcserve.types import DeploymentName, PilotId
from tests.unit.core.test_fleet import ThreeAreTooMany
from tests.unit.daemon.scheduler_stage import Cluster, site

HOUR = 3600.0
ONE_RANK = Ranks()


class Guessing(Cluster):
    """A batch scheduler that says when jobs would start."""

    def __init__(self, guesses: dict[Shape, float | None]) -> None:
        super().__init__()
        self.guesses = guesses
        self.asked: list[Shape] = []

    async def starts_in_s(self, job: PilotJob) -> float | None:
        assert job.nodes is not None
        shape = Shape(job.nodes, job.walltime_s)
        self.asked.append(shape)
        return self.guesses.get(shape)


def lab(place: Path, **pilots: float) -> Site:
    known = site(place)
    settings = {"walltime_s": 4 * HOUR, "nodes": 4, "slots": 2, "launcher": "srun", **pilots}
    return msgspec.structs.replace(known, pilots=msgspec.structs.replace(known.pilots, **settings))


def fleet_with_a_pilot(known: Site, lacking: int, ranks: Ranks = ONE_RANK) -> tuple[Fleet, PilotId]:
    fleet = Fleet(
        policy=Policy(max_pilots=2, slots=known.pilots.nodes * known.pilots.slots, idle_s=60.0, nodes=4),
        seed="s",
        restarts=ThreeAreTooMany,
        pilot_restarts=ThreeAreTooMany(),
        succession=Succession(walltime_s=known.pilots.walltime_s, margin_s=0.0, first_wait_s=0.0),
    )
    fleet.want(DeploymentName("d"), Version("v1", "", ranks), lacking)
    fleet.step(0.0)
    (pilot,) = fleet.pilots
    return fleet, pilot


def shaped(known: Site, cluster: Cluster, lacking: int, ranks: Ranks = ONE_RANK) -> tuple[Shape, Fleet]:
    fleet, pilot = fleet_with_a_pilot(known, lacking, ranks)
    job = asyncio.run(Shaping(known, cluster, fleet).shaped(pilot_job(known, pilot, Path("record"))))
    assert job.nodes is not None
    return Shape(job.nodes, job.walltime_s), fleet


def test_without_leave_every_pilot_is_as_the_site_says_and_nobody_is_asked(tmp_path: Path) -> None:
    cluster = Guessing({})
    shape, _ = shaped(lab(tmp_path), cluster, lacking=1)
    assert shape == Shape(4, 4 * HOUR)
    assert cluster.asked == []


def test_no_more_nodes_than_needed_and_the_fleet_counts_on_no_more(tmp_path: Path) -> None:
    shape, fleet = shaped(lab(tmp_path, min_nodes=1), Cluster(), lacking=3)
    assert shape == Shape(2, 4 * HOUR)
    (pilot,) = fleet.pilots.values()
    assert (pilot.slots, pilot.walltime_s) == (4, 4 * HOUR)


@pytest.mark.parametrize(
    ("ranks", "replicas", "nodes"),
    [
        (Ranks(2), 1, 1),
        (Ranks(2), 3, 3),
        (Ranks(3, nodes=3), 1, 3),
        (Ranks(2, nodes=2), 2, 2),
        (Ranks(8, nodes=4), 1, 4),
    ],
)
def test_a_small_pilot_has_the_nodes_that_wide_replicas_need(
    tmp_path: Path, ranks: Ranks, replicas: int, nodes: int
) -> None:
    shape, _ = shaped(lab(tmp_path, min_nodes=1), Cluster(), replicas, ranks)
    assert shape.nodes == nodes


def test_no_shape_has_fewer_nodes_than_one_wide_replica(tmp_path: Path) -> None:
    cluster = Guessing({Shape(3, 4 * HOUR): 3 * HOUR, Shape(1, 600.0): 0.0, Shape(3, 600.0): 0.0})
    shape, _ = shaped(lab(tmp_path, min_nodes=1, min_walltime_s=600.0), cluster, 2, Ranks(3, nodes=3))
    assert shape == Shape(3, 600.0)
    assert all(asked.nodes >= 3 for asked in cluster.asked)


def test_what_starts_within_a_minute_costs_one_question(tmp_path: Path) -> None:
    cluster = Guessing({Shape(4, 4 * HOUR): 30.0})
    shape, _ = shaped(lab(tmp_path, min_nodes=1, min_walltime_s=600.0), cluster, lacking=8)
    assert shape == Shape(4, 4 * HOUR)
    assert cluster.asked == [shape]


@pytest.mark.parametrize(("tokens", "asked"), [(0, 0), (1, 1), (2, 2), (9, 5)])
def test_a_question_counts_as_a_submission_and_where_no_more_are_allowed_what_is_known_decides(
    tmp_path: Path, tokens: int, asked: int
) -> None:
    known = lab(tmp_path, min_nodes=1, min_walltime_s=600.0)
    cluster = Guessing({Shape(4, 4 * HOUR): 5 * HOUR, Shape(1, 600.0): 0.0})
    fleet, pilot = fleet_with_a_pilot(known, 8)
    bucket = Bucket(1e-9, tokens, time.monotonic())
    job = asyncio.run(Shaping(known, cluster, fleet, bucket).shaped(pilot_job(known, pilot, Path("record"))))
    assert len(cluster.asked) == asked
    assert (job.nodes, job.walltime_s) == ((1, 600.0) if asked == 5 else (4, 4 * HOUR))


def test_pilots_that_are_submitted_together_share_the_answers_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = lab(tmp_path, min_nodes=1, min_walltime_s=600.0)
    cluster = Guessing({Shape(4, 4 * HOUR): 5 * HOUR, Shape(4, HOUR): 0.0})
    fleet, pilot = fleet_with_a_pilot(known, 8)
    shaping, job = Shaping(known, cluster, fleet), pilot_job(known, pilot, Path("record"))
    now = 1000.0
    monkeypatch.setattr("hpcserve.daemon.controller.shaping.time.monotonic", lambda: now)
    first = asyncio.run(shaping.shaped(job))
    questions = len(cluster.asked)
    now += 0.99 * GUESS_HOLDS_S
    assert asyncio.run(shaping.shaped(job)) == first
    assert len(cluster.asked) == questions
    now += 0.01 * GUESS_HOLDS_S
    cluster.guesses = {Shape(4, 4 * HOUR): 0.0}
    assert asyncio.run(shaping.shaped(job)).walltime_s == 4 * HOUR
    assert len(cluster.asked) == questions + 1


@pytest.mark.parametrize("guess", [None, 365 * 24 * HOUR, float("nan")])
def test_guesses_that_are_missing_or_absurd_change_nothing(tmp_path: Path, guess: float | None) -> None:
    cluster = Guessing({Shape(4, 4 * HOUR): guess, Shape(1, 600.0): 0.0})
    shape, _ = shaped(lab(tmp_path, min_nodes=1, min_walltime_s=600.0), cluster, lacking=8)
    assert shape == Shape(4, 4 * HOUR)


@pytest.mark.parametrize("guess", [float("nan"), float("inf"), -float("inf"), -365 * 24 * HOUR])
def test_an_absurd_guess_makes_no_other_shape_the_better_one(tmp_path: Path, guess: float) -> None:
    cluster = Guessing({Shape(4, 4 * HOUR): 5 * HOUR, Shape(4, HOUR): guess})
    shape, _ = shaped(lab(tmp_path, min_nodes=1, min_walltime_s=600.0), cluster, lacking=8)
    assert shape == Shape(4, 4 * HOUR)


def test_a_full_pilot_has_all_nodes_and_may_still_be_short(tmp_path: Path) -> None:
    known = lab(tmp_path, min_nodes=1, min_walltime_s=600.0)
    fleet, pilot = fleet_with_a_pilot(known, lacking=1)
    fleet.pilots[pilot].full = True
    cluster = Guessing({Shape(4, 4 * HOUR): 5 * HOUR, Shape(4, HOUR): 0.0, Shape(1, 600.0): 0.0})
    job = asyncio.run(Shaping(known, cluster, fleet).shaped(pilot_job(known, pilot, Path("record"))))
    assert (job.nodes, job.walltime_s) == (4, HOUR)
    assert {shape.nodes for shape in cluster.asked} == {4}


def test_a_shape_that_starts_much_sooner_is_taken_and_its_start_in_the_past_is_now(tmp_path: Path) -> None:
    cluster = Guessing({Shape(4, 4 * HOUR): 5 * HOUR, Shape(4, HOUR): -50.0})
    shape, fleet = shaped(lab(tmp_path, min_nodes=1, min_walltime_s=600.0), cluster, lacking=8)
    assert shape == Shape(4, HOUR)
    (pilot,) = fleet.pilots.values()
    assert pilot.walltime_s == HOUR


def test_a_queues_least_nodes_hold(tmp_path: Path) -> None:
    known = lab(tmp_path, min_nodes=1)
    known = msgspec.structs.replace(
        known, queues={"big": Queue(min_nodes=3)}, pilots=msgspec.structs.replace(known.pilots, partition="big")
    )
    assert bounds_of(known).min_nodes == 3


def test_the_agent_and_the_next_controller_are_told(tmp_path: Path) -> None:
    known = lab(tmp_path, min_nodes=1)

    async def scenario() -> None:
        (tmp_path / "state").mkdir()
        (tmp_path / "shared").mkdir()
        storage = Storage()
        await storage.open(tmp_path / "state" / "db")
        try:
            fleet, pilot = fleet_with_a_pilot(known, lacking=2)
            cluster = Guessing({})
            shaping = Shaping(known, cluster, fleet)
            await Pilots(known, cluster, storage, tmp_path / "record", shaping.shaped).submit(pilot)
            (enrolment,) = (tmp_path / "shared" / "enrolments").glob(f"{pilot}*")
            assert json.loads(enrolment.read_bytes())["walltime_s"] == 4 * HOUR
            later = Pilots(known, cluster, storage, tmp_path / "record")
            assert await later.recover() == [pilot]
            row = later.jobs[pilot].row
            assert (row.nodes, row.walltime_s) == (1, 4 * HOUR)
        finally:
            await storage.close()

    asyncio.run(scenario())
