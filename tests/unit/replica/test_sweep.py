"""What a process has started ends with it, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hpcserve.wire.launch import GROUP, OUTSIDE
from tests.integration.daemon_tree import is_alive, until

# It starts one that leaves its session, and one that leaves its parent too.
RANK = """
import os, subprocess, sys, time
from hpcserve.replica.sweep import sweep_at_end
sweep_at_end(os.environ)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
told = subprocess.run(["sh", "-c", "sleep 600 >/dev/null & echo $!"], start_new_session=True, stdout=subprocess.PIPE)
print(child.pid, int(told.stdout), flush=True)
time.sleep(float(sys.argv[1]))
"""
OF_RANK_1 = {GROUP: "g", "PMI_RANK": "1"}


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for each in processes:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


def rank(started: list[subprocess.Popen[str]], variables: Mapping[str, str], for_s: float = 600) -> list[int]:
    """Starts one; the process ids of what it has started."""
    argv = [sys.executable, "-c", RANK, str(for_s)]
    started.append(subprocess.Popen(argv, env=os.environ | variables, stdout=subprocess.PIPE, text=True))
    assert started[-1].stdout is not None
    return [int(each) for each in started[-1].stdout.readline().split()]


@pytest.mark.parametrize("for_s", [0, 600])
def test_what_a_rank_has_started_ends_with_it_and_other_ranks_go_on(
    started: list[subprocess.Popen[str]], for_s: float
) -> None:
    mine_too = OF_RANK_1 | {"SLURM_JOB_ID": "1"}
    of_others = ({"PMI_RANK": "0"}, {GROUP: "h"}, {"SLURM_JOB_ID": "2"})
    others = [rank(started, mine_too | more) for more in of_others]
    mine = rank(started, mine_too, for_s)
    if for_s:
        started[-1].kill()
    started[-1].wait()
    until(lambda: not any(map(is_alive, mine)), "it is gone")
    assert all(map(is_alive, [each for pids in others for each in pids]))
    for process, pids in zip(started[:3], others, strict=True):
        process.send_signal(signal.SIGTERM)
        until(lambda pids=pids: not any(map(is_alive, pids)), "so is theirs")  # type: ignore[misc]


@pytest.mark.parametrize(
    "variables", [{}, {GROUP: "g"}, {"PMI_RANK": "1"}, {OUTSIDE: ""}, {OUTSIDE: os.readlink("/proc/self/ns/mnt")}]
)
def test_a_process_that_is_no_rank_or_in_no_container_has_no_sweeper(
    started: list[subprocess.Popen[str]], variables: dict[str, str]
) -> None:
    pids = rank(started, variables)
    sweepers = [each for each in Path("/proc").glob("[0-9]*") if _is_like(int(each.name), started[-1].pid)]
    started[-1].kill()
    started[-1].wait()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert not sweepers


def _is_like(pid: int, other: int) -> bool:
    """Whether it is another process with the same command line and environment."""
    try:
        return pid != other and all(
            Path(f"/proc/{pid}/{name}").read_bytes() == Path(f"/proc/{other}/{name}").read_bytes()
            for name in ("cmdline", "environ")
        )
    except OSError:
        return False
