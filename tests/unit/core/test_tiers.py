"""By which way a staged result comes."""

from __future__ import annotations

import pytest

from hpcserve.core.tiers import tier

LIMIT = 100


@pytest.mark.parametrize(
    ("size", "visible", "https", "destination", "expected"),
    [
        (10, True, True, False, "path"),
        (10**12, True, False, False, "path"),
        (LIMIT, False, True, False, "https"),
        (LIMIT + 1, False, True, False, None),
        (10, False, False, False, None),
        (10, True, True, True, "transfer"),
    ],
)
def test_the_way_of_a_result(*, size: int, visible: bool, https: bool, destination: bool, expected: str | None) -> None:
    found = tier(size, visible=visible, https=https, https_limit_bytes=LIMIT, destination=destination)
    assert found == expected
