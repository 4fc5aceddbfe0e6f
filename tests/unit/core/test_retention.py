"""Which logs go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.retention import over

WRITERS = st.sampled_from("abcdefgh")


def test_those_of_the_ended_that_wrote_last_stay() -> None:
    written_s = {"old": 1.0, "newer": 2.0, "newest": 3.0, "quiet": 0.0}
    assert over(written_s, live={"quiet", "no log yet"}, keep=1) == ["old", "newer"]
    assert over(written_s, live={"quiet"}, keep=3) == []


@given(st.dictionaries(WRITERS, st.floats(0, 10)), st.sets(WRITERS), st.integers(1, 5))
def test_no_live_one_goes_and_no_more_stay_than_are_kept(
    written_s: dict[str, float], live: set[str], keep: int
) -> None:
    gone = over(written_s, live=live, keep=keep)
    stay = written_s.keys() - set(gone) - live
    assert not live & set(gone)
    assert len(stay) == min(keep, len(written_s.keys() - live))
    assert all(written_s[one] <= written_s[other] for one in gone for other in stay)
