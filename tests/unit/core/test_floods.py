"""Which lines of the audit log are left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.floods import Floods


def test_denials_past_the_rate_are_counted_with_the_next_line() -> None:
    floods = Floods(denied=(1.0, 2.0))

    def denied(now: float) -> int | None:
        return floods.take("bob", allowed=False, changes=False, now=now)

    assert [denied(0.0) for _ in range(5)] == [0, 0, None, None, None]
    assert denied(1.0) == 3
    assert denied(1.0) is None


def test_one_caller_does_not_silence_another() -> None:
    floods = Floods(denied=(1.0, 1.0))
    for _ in range(10):
        floods.take("bob", allowed=False, changes=False, now=0.0)
    assert floods.take("eve", allowed=False, changes=False, now=0.0) == 0


def test_who_is_denied_too_often_is_still_heard_when_allowed() -> None:
    floods = Floods(denied=(1.0, 1.0))
    for _ in range(10):
        floods.take("bob", allowed=False, changes=True, now=0.0)
    assert floods.take("bob", allowed=True, changes=False, now=0.0) == 9


def test_a_change_that_was_made_is_never_left_out() -> None:
    floods = Floods(denied=(1.0, 1.0), asked=(1.0, 1.0))
    assert [floods.take("ada", allowed=True, changes=True, now=0.0) for _ in range(100)] == [0] * 100


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans(), st.integers(0, 3)), max_size=60))
def test_every_line_is_written_or_counted(asked: list[tuple[str, bool, bool, int]]) -> None:
    floods, now = Floods(denied=(1.0, 2.0), asked=(2.0, 3.0)), 0.0
    told: dict[str, int] = {"a": 0, "b": 0}
    for who, allowed, changes, pause in asked:
        now += pause
        missing = floods.take(who, allowed=allowed, changes=changes, now=now)
        told[who] += 0 if missing is None else 1 + missing
    for who, counted in told.items():
        last = floods.take(who, allowed=True, changes=True, now=now)
        assert last is not None
        assert counted + last == sum(each == who for each, *_ in asked)
