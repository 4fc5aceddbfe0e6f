"""docs/explanation/recovery.md says what the ledger's table says, and names every state, event and effect.

``python tests/unit/docs/test_recovery_doc.py`` writes the table into the page anew.
"""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from hpcserve.core.ledger import TABLE, Effect, Event, State

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "recovery.md"
BEGIN, END = "<!-- ledger table: begin -->\n", "<!-- ledger table: end -->\n"


def rendered() -> str:
    """The table as Markdown, a row for each rule."""
    lines = ["| state | event | next state | effects, in this order |", "|---|---|---|---|"]
    for state in State:
        rules = [(event, rule) for (before, event), rule in TABLE.items() if before is state]
        for event, (after, effects) in rules:
            done = ", ".join(effect.name for effect in effects) or "none"
            lines.append(f"| {state.name} | {event.name} | {after.name} | {done} |")
    return "\n".join(lines) + "\n"


def inserted(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{rendered()}{END}{after}"


def test_the_table_is_the_programs() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert inserted(page) == page, "run: python tests/unit/docs/test_recovery_doc.py"


def test_every_rule_has_a_row() -> None:
    rows = rendered().splitlines()[2:]
    assert len(rows) == len(TABLE)
    assert "| QUEUED | GIVEN | RUNNING | DEQUEUE, ADOPT |" in rows


@pytest.mark.parametrize(("heading", "kind"), [("States", State), ("Events", Event), ("Effects", Effect)])
def test_every_word_is_explained(heading: str, kind: type[IntEnum]) -> None:
    section = PAGE.read_text(encoding="utf-8").split(f"\n### {heading}\n")[1].split("\n#")[0]
    assert re.findall(r"^\| ([A-Z_]+) \|", section, re.MULTILINE) == [member.name for member in kind]


if __name__ == "__main__":
    PAGE.write_text(inserted(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
