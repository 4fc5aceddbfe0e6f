from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcserve import errors
from hpcserve.cli.exits import BUG, CODES, MEANING, OK, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ServableError("x"), 1),
        (errors.PoisonRequest("x"), 1),
        (errors.InvalidInput("x"), 1),
        (errors.DeploymentFailed("x"), 1),
        (errors.ConfigError("x"), 2),
        (errors.ServiceUnavailable("x"), 3),
        (errors.AuthenticationError("x"), 4),
        (errors.UnknownEndpoint("x"), 5),
        (errors.UnknownServable("x"), 5),
        (errors.DeadlineExceeded("x"), 6),
        (errors.Overloaded("x"), 6),
        (errors.Conflict("x"), 7),
        (errors.StorageFull("x"), 8),
    ],
)
def test_the_error_decides_on_the_exit_code(error: errors.HpcserveError, code: int) -> None:
    assert exit_code(error) == code


def test_no_error_ends_like_success_or_like_a_bug() -> None:
    assert {OK, BUG} & {exit_code(kind("x")) for kind in errors.BY_CODE.values()} == set()
    assert set(CODES.values()) <= set(MEANING)


def test_the_reference_lists_the_same_codes(root: Path) -> None:
    text = (root / "docs" / "reference" / "cli.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", text, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == MEANING
