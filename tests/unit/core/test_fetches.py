"""Until when who fetches may read."""

from __future__ import annotations

from hpcserve.core.fetches import LONGEST_S, Fetches


def test_open_until_the_last_has_come() -> None:
    fetches = Fetches()
    for path in ("a", "b", "b"):
        fetches.begin("ann", path, 0.0)
    for path in ("b", "c", "a"):
        fetches.end("ann", path)
        assert fetches.is_open("ann", 1.0)
    assert not fetches.is_open("bob", 1.0)
    fetches.end("ann", "b")
    fetches.end("bob", "b")
    assert not fetches.is_open("ann", 1.0)
    assert fetches.over(2 * LONGEST_S) == []


def test_what_never_comes_is_not_waited_for() -> None:
    fetches = Fetches()
    fetches.begin("ann", "a", 0.0)
    fetches.begin("ann", "b", 10.0)
    assert fetches.is_open("ann", LONGEST_S)
    assert fetches.over(LONGEST_S) == []
    assert fetches.over(LONGEST_S + 10.0) == ["ann"]
    assert fetches.over(LONGEST_S + 10.0) == []


def test_a_session_that_asks_again_fetches_once() -> None:
    fetches = Fetches()
    for by in (b"1", b"2", b"1", b"1"):
        fetches.begin("ann", "a", 0.0, by)
    fetches.end("ann", "a")
    assert fetches.is_open("ann", 1.0)
    fetches.end("ann", "a")
    assert not fetches.is_open("ann", 1.0)


def test_what_cannot_be_fetched_is_not_waited_for() -> None:
    fetches = Fetches()
    fetches.begin("ann", "a", 0.0, b"1")
    fetches.begin("ann", "a", 0.0, b"2")
    fetches.give_up("ann", "a", b"1")
    fetches.give_up("ann", "a", b"1")
    assert fetches.is_open("ann", 1.0)
    fetches.give_up("ann", "a", b"2")
    fetches.give_up("bob", "a", b"2")
    assert not fetches.is_open("ann", 1.0)
    assert fetches.over(1.0) == ["ann"], "whose rule is to go"
    assert fetches.over(1.0) == []
