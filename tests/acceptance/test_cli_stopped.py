"""Processes of the daemon stand still (SIGSTOP): who meets that is told which, and what to do; ``down`` ends them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hpcserve import examples
from hpcserve.cluster.processes import is_stopped
from hpcserve.config import runtime_dir
from hpcserve.core.lease import Lease
from hpcserve.daemon import leftovers, processes
from hpcserve.daemon.leftovers import LeftBehind
from tests.acceptance.newcomer import User, until, user_in

FAILED, NO_ANSWER, IN_THE_WAY, MACHINE = 1, 3, 7, 8


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with user_in(tmp_path / "home") as found:
        yield found


def stop(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(map(is_stopped, pids)))


def serving(user: User) -> dict[str, int]:
    """The daemon's processes, when it serves ``echo``."""
    user.ok("up", "--detach")
    user.ok("publish", examples.path("echo"))
    user.ok("deploy", "echo")
    found: dict[str, int] = user.status()["processes"]
    return found


def test_a_controller_that_was_stopped_is_named_and_requests_are_answered_and_down_ends_all(
    user: User, tmp_path: Path
) -> None:
    pid = serving(user)["controller"]
    np.save(tmp_path / "x.npy", np.arange(3, dtype=np.float32))
    stop(pid)
    done = user.run("run", "echo.echo", "--input", f"x={tmp_path / 'x.npy'}")
    assert (done.returncode, done.stdout) == (0, b'{"x": [0.0, 1.0, 2.0]}\n'), done
    assert b"see: hpcserve doctor; echo.echo is called all the same" in done.stderr
    stop(pid)
    done = user.run("doctor")
    assert done.returncode == FAILED
    (told,) = [line for line in done.stdout.decode().splitlines() if "processes: " in line]
    assert f"failed   processes: the controller (pid {pid}) was stopped by somebody (SIGSTOP)" in told
    assert f"kill -CONT {pid}" in told
    assert b"see: hpcserve doctor" not in done.stdout
    stop(pid)
    user.ok("down")
    until(user.gone)


def test_a_broker_that_was_stopped_is_named(user: User) -> None:
    user.ok("up", "--detach")
    pid = user.status()["processes"]["broker"]
    stop(pid)
    said = user.fails(NO_ANSWER, "status")
    assert "if it stays so: hpcserve doctor" in said
    assert f"the broker (pid {pid}) was stopped by somebody (SIGSTOP)" in said
    os.kill(pid, signal.SIGCONT)
    user.ok("down")


def test_a_supervisor_that_was_stopped_is_named_and_goes_on_to_go_down(user: User) -> None:
    user.ok("up", "--detach")
    pid = user.status()["processes"]["supervisor"]
    stop(pid)
    said = user.fails(IN_THE_WAY, "up", "--detach")
    advice = f"kill -CONT {pid}, or to put another in its place: kill -KILL {pid}, then hpcserve up"
    assert "was stopped by somebody (SIGSTOP)" in said
    assert advice in said
    done = user.run("doctor")
    assert done.returncode == FAILED
    assert f"the supervisor (pid {pid}) was stopped by somebody (SIGSTOP); to let the daemon go on: {advice}" in (
        done.stdout.decode()
    )
    user.ok("down")
    until(user.gone)


def test_down_ends_a_daemon_all_of_which_was_stopped(user: User) -> None:
    user.ok("up", "--detach")
    pids = user.status()["processes"]
    stop(*pids.values())
    done = user.run("down")
    assert done.returncode == 0
    assert f"the daemon (pid {pids['supervisor']}) was stopped by somebody (SIGSTOP); it is told to go on" in (
        done.stderr.decode()
    )
    until(user.gone)


def test_pilots_that_were_left_behind_are_listed_until_they_have_ended(user: User) -> None:
    serving(user)
    (pilot,) = user.status()["pilots"]
    user.ok("down", "--pilots", "keep")
    left = LeftBehind(leftovers.SOME, "", leftovers.NOT_SEEN_TO)
    leftovers.write(user.record.parent, [left])
    done = user.run("down")
    assert done.returncode == MACHINE
    assert f"{pilot['pilot']}, job {pilot['job']}, may go on: {leftovers.NOT_SEEN_TO}" in done.stderr.decode()
    for process in user.processes():
        process.kill()
    until(user.gone)
    user.ok("down")
    assert leftovers.read(user.record.parent) == ()


def test_up_says_whose_lease_it_watches(user: User) -> None:
    user.ok("up", "--detach")
    user.ok("down")
    now = time.time()
    lease = Lease(
        host="elsewhere",
        boot="another",
        namespace="pid:[1]",
        pid=1,
        started="1",
        since_s=now,
        renewed_s=now,
        lease_s=1.0,
    )
    (user.record.parent / "lease-00000099.json").write_bytes(msgspec.json.encode(lease))
    done = user.run("up", "--detach")
    assert done.returncode == 0
    assert b"the daemon on elsewhere (pid 1) may be dead: its lease is watched for 1 s" in done.stderr
    user.ok("down")


def test_status_shows_no_process_that_has_ended_though_it_is_noted_still(user: User) -> None:
    """As on a full disk: who was started since could not be noted."""
    user.ok("up", "--detach")
    file = runtime_dir(user.home / "sites" / "local" / "state") / processes.FILE
    noted = json.loads(file.read_bytes())
    for name in ("controller", "broker"):
        noted["processes"][name]["started"] = "before"
    before = user.status()["processes"]
    file.write_text(json.dumps(noted))
    shown = user.status()["processes"]
    assert shown == {name: before[name] for name in ("supervisor", "admission", "controller")}
    assert "restarting, or of unknown pid: broker" in user.ok("status")
    user.ok("down")
