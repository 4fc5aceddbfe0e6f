"""The page about processes names every cause and every exit code of an agent."""

from __future__ import annotations

import re
import typing
from pathlib import Path

from hpcserve.types import LossKind
from hpcserve.wire import exits

PAGE = (Path(__file__).parents[3] / "docs" / "explanation" / "processes.md").read_text(encoding="utf-8")


def first_cells(heading: str) -> list[str]:
    """The first column of the table with this first heading."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [line.split("|")[1].strip() for line in table.splitlines()]


def test_every_cause_has_its_row() -> None:
    assert sorted(first_cells("cause")) == sorted(f"`{kind}`" for kind in typing.get_args(LossKind) if kind)


def test_every_exit_code_has_its_row() -> None:
    codes = [value for name, value in vars(exits).items() if name.isupper()]
    assert first_cells("exit code") == [str(code) for code in sorted(codes)]
