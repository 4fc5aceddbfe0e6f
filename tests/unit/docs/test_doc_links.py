"""Every link between the pages leads somewhere, every page is found from the index, and every table is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as Git hosts make them."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = found.get(slug, 0)
        found[slug] = number + 1
        names.add(f"{slug}-{number}" if number else slug)
    return names


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor) of each link inside the project."""
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [
        f"{path.relative_to(ROOT)}#{anchor}"
        for path, anchor in links(page)
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path))
    ]
    assert not broken


def test_every_page_is_found_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {path for path, _ in links(index)}
    missing = [relative(page) for page in (ROOT / "docs").rglob("*.md") if page != index and page not in listed]
    assert not missing, "docs/index.md does not link to them"


def test_the_readme_leads_to_the_index() -> None:
    assert ROOT / "docs" / "index.md" in {path for path, _ in links(ROOT / "README.md")}


def test_anchors_are_made_as_git_hosts_make_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `Client.infer`: a *call*\n## [pilots]\n## Twice\n## Twice\n```\n# no heading\n```\n")
    assert anchors(page) == {"clientinfer-a-call", "pilots", "twice", "twice-1"}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_no_row_stands_outside_of_a_table(page: Path) -> None:
    """An empty line ends a table: what follows begins with a head of its own, or is text with bars in it."""
    for head, below in re.findall(r"(?:^|\n\n)(\|.+)\n(.*)", prose(page)):
        assert re.fullmatch(r"\|[-:| ]+\|", below), head
