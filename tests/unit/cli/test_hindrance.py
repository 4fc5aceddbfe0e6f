"""What keeps replicas from being there is told once it lasts, and when it changes."""

from __future__ import annotations

from hpcserve.cli.hindrance import LASTS_S, Hindrance

ROOM = "at most 4 replicas fit into this site"


def queued(number: int) -> str:
    return f"pilot-{number} is queued: Resources (expected to start in {number} min)"


def test_what_lasts_is_told_once() -> None:
    hindrance = Hindrance()
    assert hindrance.news(ROOM, 0.0) == ""
    assert hindrance.news(ROOM, LASTS_S - 0.1) == ""
    assert hindrance.news(f"{ROOM}\nmore of it", LASTS_S) == ROOM
    assert hindrance.news(ROOM, 5 * LASTS_S) == ""


def test_another_one_is_told_when_it_lasts_and_the_first_once_more() -> None:
    hindrance = Hindrance()
    told = [hindrance.news(ROOM if now < 30 or now > 60 else queued(1), float(now)) for now in range(90)]
    assert [(now, each) for now, each in enumerate(told) if each] == [(10, ROOM), (40, queued(1)), (71, ROOM)]


def test_other_numbers_and_guesses_are_no_news() -> None:
    hindrance = Hindrance()
    told = [each for now in range(90) if (each := hindrance.news(queued(now), float(now)))]
    assert told == [queued(10)]


def test_nothing_and_what_was_said_already_is_not_told() -> None:
    hindrance = Hindrance()
    hindrance.is_told("RuntimeError: no such weights\nmore")
    told = [hindrance.news("" if now < 30 else "RuntimeError: no such weights", float(now)) for now in range(90)]
    assert set(told) == {""}
