"""``hpcserve doctor`` as a user meets it: without a daemon, with one that is well, with one that was killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.newcomer import User, user_in


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    with user_in(tmp_path / "home") as found:
        yield found


def findings(said: str | bytes) -> dict[str, str]:
    """The lines by their subjects."""
    text = said.decode() if isinstance(said, bytes) else said
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    return {rest.partition(": ")[0]: f"{outcome} {rest.partition(': ')[2]}" for outcome, rest in lines}


def test_the_doctor_tells_a_daemon_that_is_well_from_none_and_from_one_that_was_killed(user: User) -> None:
    done = user.run("doctor", "--pilot")
    found = findings(done.stdout)
    assert done.returncode == 1
    assert found["record"].startswith("failed no daemon runs, or it is not ready yet")
    assert found["way back"] == "skipped no daemon runs, so there is nothing that pilots could reach"

    user.ok("up", "--detach")
    found = findings(user.ok("doctor", "--pilot"))
    assert {each.split()[0] for each in found.values()} == {"ok", "skipped"}
    assert found["daemon"].startswith("ok it answered within ")
    assert " reaches the daemon on " in found["way back"]
    assert set(findings(user.ok("doctor"))) >= {"site file", "record", "lease", "interface", "ports", "clock"}

    for pid in user.status()["processes"].values():
        os.kill(pid, signal.SIGKILL)
    done = user.run("doctor")
    found = findings(done.stdout)
    assert done.returncode == 1
    assert "has ended without a word; hpcserve up puts another in its place" in found["lease"]
    assert found["daemon"].startswith("failed ")
    user.ok("up", "--detach")
    assert user.run("doctor").returncode == 0
    user.ok("down")


def test_a_site_file_that_is_wrong_is_told_as_everywhere(user: User, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[pilots]\nslots = 0\n")
    done = user.run("doctor", "--site", str(wrong))
    assert done.returncode == 2
    assert b"wrong.toml: pilots.slots: expected" in done.stderr
