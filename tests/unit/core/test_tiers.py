"""By which way a staged result comes."""

from __future__ import annotations

import pytest

from hpcserve.core.tiers import is_staged, reply_for, tier

LIMIT = 100


@pytest.mark.parametrize(
    ("size", "visible", "https", "destination", "expected"),
    [
        (10, True, True, False, "path"),
        (10**12, True, False, False, "path"),
        (LIMIT, False, True, False, "https"),
        (LIMIT + 1, False, True, False, None),
        (10, False, False, False, None),
        (10, True, True, True, "path"),
        (LIMIT, False, True, True, "https"),
        (LIMIT + 1, False, True, True, "transfer"),
        (10, False, False, True, "transfer"),
    ],
)
def test_the_way_of_a_result(*, size: int, visible: bool, https: bool, destination: bool, expected: str | None) -> None:
    found = tier(size, visible=visible, https=https, https_limit_bytes=LIMIT, destination=destination)
    assert found == expected


@pytest.mark.parametrize(
    ("visible", "destination", "limit", "expected"),
    [
        (True, False, 0, "auto"),
        (False, True, 0, "auto"),
        (False, True, LIMIT, "auto"),
        (False, False, LIMIT, "https"),
        (False, False, 0, "inline"),
    ],
)
def test_what_a_client_asks_for(*, visible: bool, destination: bool, limit: int, expected: str) -> None:
    assert reply_for(visible=visible, destination=destination, https_limit_bytes=limit) == expected


@pytest.mark.parametrize(
    ("size", "reply", "expected"),
    [
        (0, "staged", True),
        (10, "auto", False),
        (11, "auto", True),
        (11, "inline", False),
        (11, "of another version", False),
        (10, "https", False),
        (11, "https", True),
        (LIMIT, "https", True),
        (LIMIT + 1, "https", False),
        (1000, "https", False),
        (1001, "https", True),
    ],
)
def test_which_results_go_to_a_file(*, size: int, reply: str, expected: bool) -> None:
    """A file that nobody can fetch is better than a message that cannot be sent."""
    limits = {"inline_limit_bytes": 10, "https_limit_bytes": LIMIT, "most_inline_bytes": 1000}
    assert is_staged(size, reply, **limits) is expected
