"""What the controller reads out of log files that grow and are put aside meanwhile."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.cluster.seam import own_log
from hpcserve.daemon.controller import logs
from hpcserve.daemon.controller.logs import prune_logs, read_logs
from hpcserve.errors import ConfigError, InvalidInput, NotFound
from hpcserve.pilot.logs import CappedLog
from hpcserve.wire.admin import AskLogs, LogText

NAME = "echo-12ab-3"


def ask(directory: Path, name: str = NAME, **arguments: object) -> tuple[LogText, ...]:
    asked = AskLogs(name=name, **arguments)  # type: ignore[arg-type]  # what each test gives fits
    return read_logs(directory, asked, writers=[NAME], deployments=["echo", "young"]).logs


def after(directory: Path, log: LogText) -> LogText:
    (found,) = ask(directory, after={log.name: log.mark})
    return found


@pytest.mark.parametrize("name", [NAME, "echo"])
def test_a_replica_that_has_printed_nothing_has_an_empty_log(tmp_path: Path, name: str) -> None:
    assert ask(tmp_path, name) == (LogText(name=NAME, text=""),)


def test_of_several_replicas_the_one_that_wrote_last_comes_last(tmp_path: Path) -> None:
    for second, log in enumerate(("echo-ffff-1", "echo-12ab-10", "echo-12ab-9")):
        (tmp_path / f"{log}.log").write_text(f"{log}\n")
        os.utime(tmp_path / f"{log}.log", (1000 + second, 1000 + second))
    shown = [log.name for log in ask(tmp_path, "echo")]
    assert shown == ["echo-ffff-1", "echo-12ab-10", "echo-12ab-9", NAME]  # that one has written nothing yet


def test_a_deployment_without_replicas_has_no_log_and_is_no_mistake(tmp_path: Path) -> None:
    assert ask(tmp_path, "young") == ()
    with pytest.raises(NotFound, match="did you mean 'young'"):
        ask(tmp_path, "yuong")


def test_where_the_directory_is_gone_that_is_said_and_no_name_guessed(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no log of 'yuong', since .*/removed was removed; the next pilot has it made"):
        ask(tmp_path / "removed", "yuong")
    assert [log.text for log in ask(tmp_path / "removed")] == [""], "it may write yet"


@pytest.mark.parametrize("name", ["yuong", NAME])
def test_a_directory_that_the_file_system_does_not_show_is_told_as_that(tmp_path: Path, name: str) -> None:
    # A name too long is refused to whoever it is, as a stale handle is.
    with pytest.raises(ConfigError, match="cannot read the logs in .*File name too long"):
        ask(tmp_path / ("l" * 300), name)


@given(
    pieces=st.lists(st.tuples(st.text("aä€😀\n", max_size=12), st.integers(0, 2)), max_size=25),
    lines=st.integers(0, 3),
    cut=st.booleans(),
)
def test_following_shows_each_line_once(pieces: list[tuple[str, int]], lines: int, *, cut: bool) -> None:
    """Whatever is written between the looks, also the same again, in halves of characters, or into a new file."""
    written = "".join(text for text, _ in pieces)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        log = CappedLog(directory / f"{NAME}.log", 2 * 100)  # each part holds more than is written between looks
        log.write(b"before\n")
        (last,) = ask(directory, lines=lines)
        seen = ""
        for text, looks in pieces:
            content = text.encode()
            for chunk in (content[:1], content[1:]) if cut else (content,):
                log.write(chunk)
                for _ in range(looks):
                    last = after(directory, last)
                    seen += last.text
            if not looks:
                last = after(directory, last)
                seen += last.text
        log.close()
        seen += after(directory, last).text
    assert last.name == NAME
    assert seen == written


def test_a_new_log_is_followed_from_its_beginning(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.log").write_text("one\ntwo\n")
    assert ask(tmp_path, "echo", after={})[0].text == "one\ntwo\n"


def test_much_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 10)
    (tmp_path / f"{NAME}.log").write_text("x" * 25)
    pieces = [LogText(name=NAME, text="")]
    while not pieces[1:] or pieces[-1].more:
        pieces.append(after(tmp_path, pieces[-1]))
    assert [len(piece.text) for piece in pieces] == [0, 10, 10, 5]


def test_after_a_mark_whose_file_is_gone_comes_all_that_is_left(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.log.1").write_text("older\n")
    (tmp_path / f"{NAME}.log").write_text("newer\n")
    assert ask(tmp_path, after={NAME: "1:5"})[0].text == "older\nnewer\n"


@pytest.mark.parametrize("mark", ["x", "1:", "-1:2", "1:2:3", "9" * 100 + ":1"])
def test_what_is_no_mark_is_refused(tmp_path: Path, mark: str) -> None:
    with pytest.raises(InvalidInput, match="is no mark of a log"):
        ask(tmp_path, after={NAME: mark})


def test_old_logs_go_with_their_older_parts_and_what_the_scheduler_wrote(tmp_path: Path) -> None:
    for number, name in enumerate(["echo-ab12-1", "echo-ab12-2", "quiet-ab12-3", "pilot-ab12-4", "daemon-broker"]):
        for path in (tmp_path / f"{name}.log", tmp_path / f"{name}.log.1", own_log(tmp_path / f"{name}.log")):
            path.touch()
            os.utime(path, (number, number))
    (tmp_path / "echo-ab12-1.log").unlink()
    prune_logs(tmp_path, live={"quiet-ab12-3"}, keep=1)
    left = {path.name.partition(".")[0] for path in tmp_path.iterdir()}
    assert left == {"quiet-ab12-3", "pilot-ab12-4", "daemon-broker"}
    prune_logs(tmp_path / "not there", live=set(), keep=1)


def test_a_directory_that_cannot_be_read_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "logs"
    place.write_text("a file\n")
    prune_logs(place, live=(), keep=0)
    assert "old logs stay" in caplog.text
