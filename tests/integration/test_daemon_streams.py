"""A daemon whose starter has closed the standard streams: their numbers are never a socket's or a file's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemon_tree import Daemon, status, until

STANDARD = (0, 1, 2)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.end()


def streams_of(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{number}") for number in STANDARD]


def start_in_shell(house: Daemon, redirections: str) -> dict[str, object]:
    """Starts it as ``python -m hpcserve.daemon … REDIRECTIONS``; what it reports."""
    ready, report = os.pipe()
    argv = [sys.executable, "-m", "hpcserve.daemon", "--site", str(house.site), "--ready-fd", str(report)]
    house.process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *argv],
        env=os.environ | house.variables,
        pass_fds=(report,),
        start_new_session=True,
    )
    os.close(report)
    with open(ready) as lines:
        said: dict[str, object] = json.loads(lines.readline())
    return said


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", ">&-", "<&- 2>&-"])
def test_a_closed_stream_is_no_socket_of_the_daemon(house: Daemon, redirections: str) -> None:
    said = start_in_shell(house, redirections)
    assert not said.get("error"), said
    shown = streams_of(house.pid_of("supervisor"))
    closed = [number for number, sign in enumerate(("<&-", " >&-", "2>&-")) if sign in f" {redirections}"]
    assert [shown[number] for number in closed] == [os.devnull] * len(closed)
    for name in ("broker", "controller", "admission"):
        lifeline, *logs = streams_of(house.pid_of(name))
        assert lifeline.startswith("pipe:")
        assert {Path(log).name for log in logs} == {f"daemon-{name}.log"}
    with house.client() as client:
        assert status(client).software


def test_the_report_may_go_to_standard_output_whose_number_stays_taken(house: Daemon) -> None:
    house.up()  # with --ready-fd 1
    until(lambda: streams_of(house.pid_of("supervisor"))[1:] == [os.devnull] * 2, "nothing else has its number")


def test_a_refusal_with_no_stream_to_tell_it_is_an_exit_code(house: Daemon) -> None:
    house.state.parent.mkdir(parents=True)
    house.state.write_text("in the way")
    said = start_in_shell(house, "<&- >&- 2>&-")
    assert said["error"]
    assert house.process is not None
    assert house.process.wait(30) == 1
