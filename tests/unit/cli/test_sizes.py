"""How much, as it is written on a command line."""

from __future__ import annotations

import pytest
import typer

from hpcserve.cli.options import MOST_BYTES, size_bytes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1", 1),
        ("67108864", 64 << 20),
        ("64MiB", 64 << 20),
        ("64 MiB", 64 << 20),
        ("64Mi", 64 << 20),
        ("1.5GB", 1_500_000_000),
        ("2k", 2000),
        ("2KiB", 2048),
        ("1T", 10**12),
        ("12B", 12),
        (str(MOST_BYTES), MOST_BYTES),
    ],
)
def test_a_number_of_bytes(text: str, found: int) -> None:
    assert size_bytes(text) == found


@pytest.mark.parametrize(
    "text", ["", "0", "0.1", "-1", "MB", "1e9", "1XB", "inf", "1 2", "9" * 19, f"{MOST_BYTES + 1}", "1_0"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="such as 67108864, 64MiB or 1.5GB"):
        size_bytes(text)
