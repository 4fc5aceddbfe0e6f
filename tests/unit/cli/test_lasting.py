"""Which login ends before a pilot is expected to start, and what its owner is told."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from hpcserve.auth.tokens import Kept
from hpcserve.cli.lasting import ends_before_a_start, lasts
from hpcserve.wire.admin import PilotView, Status
from tests.unit.cli.blank_status import blank


def login(left_s: float, refresh_token: str | None = None, *, by_secret: bool = False) -> Kept:
    return Kept("key", "native", "scope", "service", "access", time.time() + left_s, refresh_token, by_secret)


def status(*starts_in_s: float | None) -> Status:
    pilots = tuple(
        PilotView(
            pilot=f"p{number}",
            state="queued",
            job="1",
            host="",
            pid=None,
            replicas=0,
            slots=0,
            walltime_left_s=None,
            starts_in_s=each,
        )
        for number, each in enumerate(starts_in_s)
    )
    return blank(pilots=pilots)


@pytest.mark.parametrize(
    ("kept", "starts_in_s", "told"),
    [
        (lambda: None, (7200.0,), ""),
        (lambda: login(3600), (), ""),
        (lambda: login(3600), (None, 60.0), ""),
        (lambda: login(3600, "refresh"), (7200.0,), ""),
        (lambda: login(3600, by_secret=True), (7200.0,), ""),
        (
            lambda: login(3630),
            (7200.0, 10_800.0, None),
            "ends in 1 h 0 min, and pilot p1 is expected to start in 3 h 0 min",
        ),
        (lambda: login(-5), (60.0,), "ends in 0 s"),
    ],
)
def test_what_is_told(kept: Callable[[], Kept | None], starts_in_s: tuple[float | None, ...], told: str) -> None:
    found = ends_before_a_start(kept(), status(*starts_in_s))
    assert told in found
    assert bool(found) == bool(told)
    assert not found or "hpcserve login --force" in found


def test_how_long_a_login_lasts() -> None:
    assert lasts(login(10, "refresh")) == "renews itself"
    assert lasts(login(3630)) == "ends in 1 h 0 min"
    assert lasts(login(-1)) == "has ended"
