"""``hpcserve status --watch`` where its output is no screen: a table each time, and a reader that may go."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.newcomer import HPCSERVE, User, until, user_in

READER_GONE, INTERRUPTED = 141, 130
EACH = "sessions: "
"""It stands once in each look at the daemon."""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with user_in(tmp_path_factory.mktemp("watching")) as found:
        found.ok("up", "--detach")
        yield found
        found.ok("down")


def test_a_file_gets_one_plain_table_after_the_other_until_ctrl_c(user: User, tmp_path: Path) -> None:
    shown = tmp_path / "shown.txt"
    with shown.open("wb") as file:
        process = subprocess.Popen(
            [*HPCSERVE, "status", "--watch"], env=user.environment, stdout=file, stderr=subprocess.PIPE
        )
    try:
        until(lambda: shown.read_text().count(EACH) >= 2)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (INTERRUPTED, b"")
    first, second = shown.read_text().split("\n\n")[:2]
    assert first.count(EACH) == second.count(EACH) == 1
    assert "\x1b" not in shown.read_text()


def test_it_ends_quietly_when_its_reader_has_gone(user: User) -> None:
    process = user.start("status", "--watch")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as said:
        assert said.read() == ""
    assert process.wait(30) == READER_GONE


def test_a_terminal_that_cannot_go_back_gets_one_table_after_the_other(user: User) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*HPCSERVE, "status", "--watch"], env=user.environment | {"TERM": "dumb"}, stdin=theirs, stdout=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        os.set_blocking(ours, False)

        def two() -> bool:
            nonlocal shown
            try:
                shown += os.read(ours, 65536)
            except BlockingIOError:
                return False
            return shown.count(EACH.encode()) >= 2

        until(two)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == INTERRUPTED
        os.close(ours)
