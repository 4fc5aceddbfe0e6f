"""How much the daemon asks of the batch scheduler: what was promised holds. Counts in simulated time, and no times."""

from __future__ import annotations

import pytest

from benchmarks.scaling_rpcs import (
    EVENTS,
    KINDS,
    MOST,
    flapping_hour,
    full_hour,
    idle_hour,
    outage,
    running_hour,
    up_waits_hour,
)


@pytest.mark.parametrize("kind", KINDS)
def test_an_hour_with_one_running_pilot(kind: str) -> None:
    assert 0 < running_hour(kind) <= MOST["running_hour"] == 400


@pytest.mark.parametrize("kind", KINDS)
def test_an_hour_with_nothing_queued_or_running(kind: str) -> None:
    assert idle_hour(kind) <= MOST["idle_hour"] == 30


@pytest.mark.parametrize("kind", KINDS)
def test_an_hour_in_which_up_waits_for_the_job_of_a_daemon(kind: str) -> None:
    assert 0 < up_waits_hour(kind) <= MOST["up_waits_hour"] == 400


@pytest.mark.parametrize("offset_s", [3.0, 61.0])
@pytest.mark.parametrize("event", EVENTS)
def test_five_minutes_without_slurmctld_lose_nothing_and_are_over_with_one_poll(event: str, offset_s: float) -> None:
    found = outage("commands", event, offset_s)
    assert 0 < found.asked <= MOST["outage_worst"] == 12
    assert found.lost == found.submitted_twice == 0
    assert found.polls <= 1
    assert found.recovered_s <= 61.0, "polls are no further apart while there is no answer"


def test_an_outage_over_pyslurm() -> None:
    found = outage("pyslurm", "more wanted", 3.0)
    assert 0 < found.asked <= MOST["outage_worst"]
    assert found.lost == found.submitted_twice == 0


@pytest.mark.parametrize("kind", KINDS)
def test_questions_when_a_pilot_would_start_are_asked_and_counted(kind: str) -> None:
    counted = flapping_hour(kind)
    assert counted["guesses"] > counted["submissions"] > 0, "the full shape, and two that are shorter"
    assert counted["guesses"] % 3 == 0
    assert counted["guesses"] <= 3 * 60, "they hold for a minute"
    assert counted["asked"] <= MOST["running_hour"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_that_lets_slurm_take_no_job_is_tried_once_a_minute_and_not_for_each_pilot(kind: str) -> None:
    counted = full_hour(kind)
    assert 0 < counted["submissions"] <= 65
    assert counted["guesses"] <= counted["submissions"]
    assert counted["asked"] <= MOST["running_hour"]
