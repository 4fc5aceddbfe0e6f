"""``hpcserve results``: what is shown of each, and what is removed."""

from __future__ import annotations

import time
from typing import Any, Self

import pytest

from hpcserve.cli import asking, results
from hpcserve.cli.main import main
from hpcserve.cli.status import drawn
from hpcserve.wire.results import AskResults, Discard, Discarded, ResultList, ResultView
from tests.unit.cli.blank_status import blank


def view(path: str, **more: Any) -> ResultView:
    return ResultView(owner="ada", path=path, size_bytes=4_000_000, written_s=time.time() - 7200, **more)


class Service:
    """Has these results, and notes what it is asked for."""

    def __init__(self, *found: ResultView) -> None:
        self.found = found
        self.asked: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, _verb: str, arguments: Any, _answer: type[Any]) -> Any:
        self.asked.append(arguments)
        if isinstance(arguments, Discard):
            return Discarded(removed=len(arguments.paths))
        return ResultList(results=self.found)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Service:
    now_s = time.time()
    service = Service(
        view("/s/ada/a.h5"),
        view("/s/ada/b.h5", delivered_s=now_s - 3600, until_s=now_s + 7230),
        view("/s/ada/c.h5", held=True),
    )
    monkeypatch.setattr(results, "open_client", lambda _: service)
    return service


@pytest.mark.usefixtures("called")
def test_each_is_shown_with_how_long_it_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "/s/ada/a.h5 4.0 MB 2 h 0 min ago no until it is delivered" in lines
    assert "/s/ada/b.h5 4.0 MB 2 h 0 min ago 1 h 0 min ago 2 h 0 min more" in lines
    assert "/s/ada/c.h5 4.0 MB 2 h 0 min ago no until it has arrived: hpcserve transfers" in lines


@pytest.mark.parametrize("asked", [(), ("--discard",)])
def test_no_name_of_a_file_steers_the_terminal(
    called: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...]
) -> None:
    class Person:
        def agrees(self, _question: str) -> bool:
            return False

    monkeypatch.setattr(asking, "terminal", Person)
    called.found = (view("/s/ada/\x1b]0;owned\x07\u202e.h5"),)
    assert main(["results", *asked]) == 0
    told = capsys.readouterr().out
    assert "/s/ada/\\x1b]0;owned\\x07\\u202e.h5" in told
    assert told.replace("\n", "").isprintable()


def test_all_that_is_listed_is_removed_but_what_is_on_its_way(
    called: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", "--undelivered", "--older", "60", "--discard", "--yes"]) == 0
    assert called.asked == [AskResults(undelivered=True, older_s=60.0), Discard(paths=("/s/ada/a.h5", "/s/ada/b.h5"))]
    assert capsys.readouterr().out == "removed: 2\n"


def test_without_a_terminal_nothing_is_removed_unasked(called: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "--discard"]) == 4
    assert called.asked == [AskResults()]
    assert "2 results would be removed, and no terminal is here to ask; add --yes" in capsys.readouterr().err


def test_those_that_are_named_are_removed_in_parts(called: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "AT_ONCE", 2)
    assert main(["results", "--discard", "a", "b", "c"]) == 0
    assert called.asked == [Discard(paths=("a", "b")), Discard(paths=("c",))]


@pytest.mark.parametrize("words", [["a"], ["a", "--discard", "--everybody"], ["a", "--discard", "--older", "5"]])
def test_what_is_meant_has_to_be_said(called: Service, words: list[str]) -> None:
    assert main(["results", *words]) == 2
    assert called.asked == []


def test_status_tells_what_nobody_has_fetched() -> None:
    told = blank(staged_results=7, staged_bytes=3 << 30, staged_free_bytes=1 << 40)
    assert "staged results: 7, 3.0 GiB, 1.0 TiB free" in map(str, drawn(told))
    waiting = blank(
        staged_results=7,
        staged_bytes=3 << 30,
        undelivered_results=2,
        undelivered_bytes=1 << 30,
        undelivered_since_s=time.time() - 12 * 86400 - 60,
    )
    line = "staged results: 7, 3.0 GiB; "
    line += "undelivered: 2, 1.0 GiB, the oldest for 12 d 0 h; see: hpcserve results --everybody"
    assert line in map(str, drawn(waiting))
