"""By which way a staged result comes."""

from __future__ import annotations

import pytest

from hpcserve.core.tiers import tier

LIMIT = 100


@pytest.mark.parametrize(
    ("size", "visible", "https", "destination", "collection", "expected"),
    [
        (10, True, True, False, True, "path"),
        (10**12, True, False, False, False, "path"),
        (LIMIT, False, True, False, True, "https"),
        (LIMIT + 1, False, True, False, True, None),
        (10, False, False, False, True, None),
        (10, True, True, True, True, "transfer"),
        (10, True, True, True, False, None),
    ],
)
def test_the_way_of_a_result(
    *, size: int, visible: bool, https: bool, destination: bool, collection: bool, expected: str | None
) -> None:
    found = tier(
        size, visible=visible, https=https, https_limit_bytes=LIMIT, destination=destination, collection=collection
    )
    assert found == expected
