"""The plan of a deployment in words: what it waits for, and with whom it shares that."""

from __future__ import annotations

from functools import partial

import pytest

from hpcserve.core.outlook import Queued, awaited, plan_in_words, soonest_s
from tests.unit.core.test_scaled_fleet import V1, D, Site

SOON, LATE, SOMETIME = (Queued(slots=2, starts_in_s=each) for each in (60.0, 7200.0, None))
LARGE = Queued(slots=8, starts_in_s=None)


def words(site: Site, here: int, *, queued: int = 0, sharing: int = 0, starts_at: str = "") -> str:
    return plan_in_words(site.fleet.deployments[D], here=here, queued=queued, sharing=sharing, starts_at=starts_at)


def test_the_plan_in_words() -> None:
    site = Site()
    assert words(site, 0) == "no replica, because its demand is not measured yet"
    site.demand(came=1240, queued=1240, service_s=0.1)
    rest = "for 3 of 3 replicas, because 1,240 requests wait"
    assert words(site, 0, queued=2, starts_at="14:05") == f"2 pilots queued, est. start 14:05, {rest}"
    assert words(site, 0, queued=1) == f"1 pilot queued, {rest}"
    assert words(site, 3, queued=1, starts_at="14:05") == "3 replicas, because 1,240 requests wait"
    assert words(site, 2) == "3 replicas, of which 1 not yet there, because 1,240 requests wait"
    site.fleet.want(D, V1, 1)
    assert words(site, 0) == "1 replica, of which 1 not yet there, because that is what was asked for"


@pytest.mark.parametrize(
    ("replicas", "here", "told"),
    [(2, 2, "2 replicas, fixed"), (1, 3, "1 replica, fixed"), (0, 0, "paused"), (0, 2, "paused")],
)
def test_the_plan_of_a_fixed_number_that_is_there(replicas: int, here: int, told: str) -> None:
    site = Site()
    site.fleet.want(D, V1, replicas)
    assert words(site, here) == told


def test_what_waited_and_waits_no_more_is_told_in_the_past() -> None:
    site = Site()
    site.demand(came=1, queued=1)
    known = site.fleet.deployments[D]
    now = partial(plan_in_words, known, here=1, queued=0, sharing=0, starts_at="")
    assert now(waiting=1) == "1 replica, because 1 request waits"
    assert now(waiting=0) == "1 replica, because 1 request waited"
    site.demand(came=1240, queued=1240, service_s=0.1)
    assert now(waiting=0).endswith("not yet there, because 1,240 requests waited")


def test_pilots_that_the_scheduler_does_not_have_yet_are_not_told_as_queued() -> None:
    site = Site()
    site.fleet.want(D, V1, 1)
    known = site.fleet.deployments[D]
    rest = ", for 1 of 1 replica, because that is what was asked for"
    for queued, unsubmitted, told in (
        (1, 1, "1 pilot to be submitted"),
        (2, 2, "2 pilots to be submitted"),
        (3, 1, "2 pilots queued and 1 to be submitted"),
    ):
        plan = plan_in_words(known, here=0, queued=queued, unsubmitted=unsubmitted, sharing=0, starts_at="")
        assert plan == told + rest


def test_pilots_that_others_wait_for_are_told_as_shared() -> None:
    site = Site()
    site.fleet.want(D, V1, 1)
    rest = "for 1 of 1 replica, because that is what was asked for"
    assert words(site, 0, queued=2, sharing=1) == f"2 pilots queued, shared with 1 other deployment, {rest}"
    told = words(site, 0, queued=2, sharing=99, starts_at="14:05")
    assert told == f"2 pilots queued, shared with 99 other deployments, est. start 14:05, {rest}"


@pytest.mark.parametrize(
    ("queued", "lacking", "expected"),
    [
        ([], 5, []),
        ([SOON, LATE], 0, []),
        ([SOON, LATE], -1, []),
        ([LATE, SOMETIME, SOON], 1, [SOON]),
        ([LATE, SOMETIME, SOON], 2, [SOON]),
        ([LATE, SOMETIME, SOON], 3, [SOON, LATE]),
        ([LATE, SOMETIME, SOON], 100, [SOON, LATE, SOMETIME]),
        ([SOMETIME, LARGE], 3, [LARGE]),
    ],
)
def test_a_deployment_waits_for_those_that_start_first(
    queued: list[Queued], lacking: int, expected: list[Queued]
) -> None:
    assert awaited(queued, lacking) == expected


def test_the_first_start_that_anybody_can_tell() -> None:
    assert soonest_s([SOMETIME, LATE, SOON]) == 60.0
    assert soonest_s([SOMETIME]) is None
    assert soonest_s([]) is None
