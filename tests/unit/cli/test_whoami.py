"""What ``hpcserve whoami`` says of groups."""

from __future__ import annotations

from typing import Any

import pytest

from hpcserve.cli.whoami import _groups
from hpcserve.wire.admin import Me


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"groups": ("a", "b")}, "a, b; asked for once in 5 min 0 s, and at once by: hpcserve login --force"),
        ({"groups": ()}, "none; asked for once in 5 min 0 s, and at once by: hpcserve login --force"),
        ({"groups": None}, "not known"),
        ({"groups": (), "groups_count": False}, "not asked for: no rule here names one"),
        ({"groups": (), "groups_count": False, "id": ""}, ""),
    ],
)
def test_groups_are_told_with_their_age(known: dict[str, Any], told: str) -> None:
    me: dict[str, Any] = {
        "name": "ada",
        "id": "1",
        "domain": "lab.example",
        "key": "k",
        "may": (),
        "groups_age_s": 300.0,
    } | known
    assert _groups(Me(**me)) == told
