"""The kernel's counter of processes that it killed for want of memory, in both generations of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.pilot.memory import MemoryWatch, counter_file

V1 = "9:name=systemd:/\n4:memory:/slurm/job_7\n0::/\n"
V2 = "0::/system.slice/job_7/step_batch\n"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        (V1, "sys/fs/cgroup/memory/slurm/job_7/memory.oom_control"),
        (V2, "sys/fs/cgroup/system.slice/job_7/step_batch/memory.events"),
        ("", "proc/vmstat"),
    ],
)
def test_the_nearest_counter_is_read(tmp_path: Path, groups: str, file: str) -> None:
    written(tmp_path / "proc/self/cgroup", groups)
    assert counter_file(tmp_path) is None
    expected = written(tmp_path / file, "under_oom 0\noom_kill 3\n")
    assert counter_file(tmp_path) == expected


def test_each_kill_is_taken_once(tmp_path: Path) -> None:
    path = written(tmp_path / "memory.events", "oom 0\noom_kill 3\n")
    watch = MemoryWatch(path)
    assert not watch.take()
    written(path, "oom 2\noom_kill 5\n")
    assert [watch.take(), watch.take(), watch.take()] == [True, True, False]
    path.unlink()
    assert not watch.take()


def test_without_a_counter_nobody_was_killed() -> None:
    assert not MemoryWatch(None).take()
