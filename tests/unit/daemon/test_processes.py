"""What is left of a daemon before this one is told from what has its pids by chance, and ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve.daemon import processes

STILL = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def two() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(STILL, start_new_session=True) for _ in range(2)]
    yield started
    for each in started:
        each.kill()
        each.wait()


def test_all_that_is_left_of_a_daemon_is_killed(tmp_path: Path, two: list[subprocess.Popen[bytes]]) -> None:
    supervisor, broker = two
    processes.write(tmp_path, {"supervisor": supervisor.pid, "broker": broker.pid})
    assert processes.running(tmp_path) == processes.noted(tmp_path) == {"supervisor": two[0].pid, "broker": two[1].pid}
    processes.end_left(tmp_path)
    assert [each.wait() for each in two] == [-9, -9]
    assert processes.running(tmp_path) == {}


def test_a_supervisor_that_has_ended_its_children_is_left_to_end(
    tmp_path: Path, two: list[subprocess.Popen[bytes]]
) -> None:
    supervisor, broker = two
    processes.write(tmp_path, {"supervisor": supervisor.pid, "broker": broker.pid})
    broker.kill()
    broker.wait()
    processes.end_left(tmp_path)
    assert processes.running(tmp_path) == {"supervisor": supervisor.pid}


@pytest.mark.parametrize("other", ["boot", "namespace", "started"])
def test_another_process_of_the_same_pid_is_left_alone(
    tmp_path: Path, two: list[subprocess.Popen[bytes]], other: str
) -> None:
    """As of another host, another container, or another time."""
    processes.write(tmp_path, {"broker": two[0].pid})
    file = tmp_path / processes.FILE
    content = file.read_text()
    changed = content.replace(f'"{other}":"', f'"{other}":"9')
    assert changed != content
    file.write_text(changed)
    processes.end_left(tmp_path)
    assert processes.running(tmp_path) == {}
    os.kill(two[0].pid, 0)
    assert two[0].poll() is None


@pytest.mark.parametrize("content", [None, b"", b'{"supervisor": 1}'])
def test_nothing_that_can_be_read_names_nobody(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / processes.FILE).write_bytes(content)
    processes.end_left(tmp_path)
    assert processes.noted(tmp_path) == processes.running(tmp_path) == {}
