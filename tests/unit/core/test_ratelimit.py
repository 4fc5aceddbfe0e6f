"""Token buckets: bursts pass, floods do not, silence refills."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.ratelimit import Bucket, Buckets


def test_a_burst_passes_and_then_it_takes_time() -> None:
    bucket = Bucket(rate=2, burst=3, now=0)
    assert [bucket.take(0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.take(0.25) == 0.25
    assert bucket.take(0.5) == 0
    assert bucket.take(0.5) == 0.5


def test_silence_fills_no_further_than_the_burst() -> None:
    bucket = Bucket(rate=2, burst=3, now=0)
    assert bucket.level(1000) == 3
    assert [bucket.take(1000) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(rate=1, burst=1, now=100)
    assert bucket.take(100) == 0
    assert bucket.take(50) == 1
    assert bucket.take(100) == 1


@given(st.lists(st.floats(0, 5), max_size=100), st.floats(0.1, 10), st.integers(1, 10))
def test_no_more_passes_than_rate_and_burst_allow(gaps: list[float], rate: float, burst: int) -> None:
    bucket, now, passed = Bucket(rate, burst, 0), 0.0, 0
    for gap in gaps:
        now += gap
        passed += bucket.take(now) == 0
    assert passed <= burst + rate * now + 1e-6


def test_askers_do_not_take_from_each_other() -> None:
    buckets = Buckets(rate=1, burst=1, most=10)
    assert buckets.take(b"ada", 0) == 0
    assert buckets.take(b"ada", 0) == 1
    assert buckets.take(b"ben", 0) == 0


def test_any_number_of_askers_takes_bounded_room() -> None:
    buckets = Buckets(rate=1, burst=1, most=10)
    assert buckets.take("loud", 0) == 0
    for asker in range(1000):
        buckets.take(asker, 0)
        assert buckets.take("loud", 0) == 1, "who asks all the time is not forgotten"
    assert len(buckets) == 10
