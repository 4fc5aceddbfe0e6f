"""Replicas of several MPI ranks on a workstation, as a user meets them: the site file and a servable, no cluster."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.acceptance.newcomer import User, until, user_in

PATIENCE_S = 60.0
MPIEXEC = Path(sys.executable).with_name("mpiexec")
SITE = 'base = "local"\n[pilots]\nslots = 3\n[mpi]\ncommand = "{command}"\n'
PARALLEL = 'name = "parallel"\nloader = "python"\nentry = "model:Parallel"\n[ranks]\nsize = 3\n'
CHOIR = 'name = "choir"\nloader = "python"\nentry = "model:Choir"\n[ranks]\nsize = 2\ncompute = "collective"\n'
CODE = """
import os, signal, subprocess
import numpy as np
from hpcserve import Tensor, method

X = {"x": Tensor("int64", [-1])}
Y = {"y": Tensor("int64", [-1])}

class Parallel:
    def setup(self, context):
        self.rank = context.rank
        # Whoever ends it, and however, this is not to outlive it.
        subprocess.Popen(["sleep", "600"], start_new_session=True)

    @method(inputs=X, outputs=Y | {"rank": Tensor("int64", [-1])}, batchable=True)
    def twice(self, x):
        if (x < 0).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": 2 * x, "rank": np.full_like(x, self.rank)}

class Choir:
    def setup(self, context):
        self.rank = context.rank

    @method(inputs=X, outputs=Y)
    def sing(self, x, comm):
        if self.rank == 1:
            raise ValueError("the alto has no notes")
        return x
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with user_in(tmp_path / "home") as found:
        yield found


def at(user: User, place: Path, command: Path | str) -> User:
    """The user's site starts ranks by this command."""
    site = place / "local.toml"
    site.write_text(SITE.format(command=command))
    user.environment["HPCSERVE_SITE"] = str(site)
    return user


def servable(place: Path, manifest: str) -> Path:
    place.mkdir()
    (place / "model.py").write_text(CODE)
    (place / "servable.toml").write_text(manifest)
    return place


def started(user: User) -> list[psutil.Process]:
    """What the servable has started, of all ranks."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("OF_USER") == str(user.home) and process.cmdline() == ["sleep", "600"]:
                found.append(process)
    return found


def test_ranks_on_a_workstation(user: User, tmp_path: Path) -> None:
    user.environment["OF_USER"] = str(user.home)
    at(user, tmp_path, MPIEXEC)
    user.ok("up", "--detach")
    assert f"mpi: {MPIEXEC}" in user.ok("doctor")
    user.ok("publish", servable(tmp_path / "parallel", PARALLEL))
    assert user.ok("deploy", "parallel").endswith(", ready\n")
    (first,) = user.status()["deployments"][0]["replicas"]
    assert (first["ranks"], first["nodes"], first["slots"]) == (3, 1, 3)
    shown = [line.split() for line in user.ok("status").splitlines()]
    assert [first["replica"], "3", "ready"] in [words[:3] for words in shown]
    call = ("run", "parallel.twice", "--input", "-")
    assert json.loads(user.ok(*call, given=b"[1, 2, 3, 4]")) == {"y": [2, 4, 6, 8], "rank": [0, 0, 1, 2]}

    assert len(started(user)) == 3
    before = {process.pid for process in started(user)}
    below = psutil.Process(first["pid"]).children(recursive=True)
    ranks = [each for each in below if "hpcserve.replica" in each.cmdline()]
    ranks[-1].kill()
    until(lambda: not before & {process.pid for process in started(user)}, PATIENCE_S)
    assert json.loads(user.ok(*call, given=b"[1]")) == {"y": [2], "rank": [0]}
    user.ok("undeploy", "parallel")
    until(lambda: not started(user), PATIENCE_S)

    user.ok("publish", servable(tmp_path / "choir", CHOIR))
    user.ok("deploy", "choir")
    told = user.fails(1, "run", "choir.sing", "--input", "-", given=b"[1]")
    assert told.startswith("error: rank 1: method 'sing' failed: ValueError: the alto has no notes")
    assert "(rank 1) Traceback" in told
    assert 'raise ValueError("the alto has no notes")' in told
    user.ok("down")


def test_what_ranks_need_and_is_not_there_is_told_in_words(user: User, tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "mpi4py.py").write_text("raise ImportError('no module of that name')")
    user.environment["PYTHONPATH"] = str(tmp_path / "hidden")
    at(user, tmp_path, "/no/such/mpiexec")
    user.ok("up", "--detach")
    user.ok("publish", servable(tmp_path / "choir", CHOIR))
    for check in ("doctor", "site check"):
        done = user.run(*check.split())
        assert done.returncode == 1, done
        assert b"mpi.command: no command '/no/such/mpiexec' in PATH; load its module" in done.stdout
    told = user.fails(1, "deploy", "choir")
    assert told.count("there is no command '/no/such/mpiexec' on ") == 2, "tried once more, and no further"
    assert told.startswith("starting again after: it cannot be started: there is no command '/no/such/mpiexec' on ")
    assert "mpi.command of the site file; deploy it again afterwards" in told
    assert "correct the servable" not in told
    user.ok("down")
    at(user, tmp_path, MPIEXEC)
    user.ok("up", "--detach")
    told = user.fails(1, "deploy", "choir")
    assert "MPI cannot be used: no module of that name" in told
    assert "-m pip install mpi4py 'mpich<5'" in told
    user.ok("down")
