"""The directory of the logs is removed, or not to be seen, while the daemon runs: it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types

from tests.acceptance.newcomer import until, user_in


def controllers(supervisor: psutil.Process) -> list[psutil.Process]:
    return [each for each in supervisor.children() if "controller" in " ".join(each.cmdline())]


def killed_and_back(supervisor: psutil.Process) -> bool:
    """The controller is killed; whether another one begins."""
    (before,) = controllers(supervisor)
    before.kill()
    until(lambda: not before.is_running() and bool(controllers(supervisor)))
    return True


def test_what_ends_is_started_again_without_the_directory_of_its_log(tmp_path: Path) -> None:
    with user_in(tmp_path / "home") as user:
        user.ok("up", "--detach")
        supervisor = psutil.Process(json.loads(user.record.read_bytes())["pid"])
        logs, kept = user.record.parent / "logs", tmp_path / "kept"
        logs.rename(kept)
        assert killed_and_back(supervisor)
        user.ok("status")
        assert (logs / "daemon-controller.log").exists()

        logs.rename(tmp_path / "kept-too")
        logs.symlink_to("l" * 300)
        said = user.fails(2, "logs", "echo")
        assert "cannot read the logs in" in said
        assert "bug" not in said
        assert killed_and_back(supervisor)
        user.ok("status")
        logs.unlink()
        kept.rename(logs)
        user.ok("down")
        until(user.gone)
