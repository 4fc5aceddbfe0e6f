"""A user of the command line: a home of their own, and nothing of theirs left running."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships no types

HPCSERVE = (sys.executable, "-m", "hpcserve.cli.main")
TIMEOUT_S = 90.0


class User:
    """Somebody with a home of their own, and no pipe to it after the test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HPCSERVE_")},
            "HPCSERVE_HOME": str(home),
        }

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """``hpcserve ARGUMENTS``, in a process group of its own, as a shell does."""
        return subprocess.Popen(
            [*HPCSERVE, *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def run(self, *arguments: str | Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*HPCSERVE, *map(str, arguments)],
            env=self.environment,
            input=given,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        )

    def ok(self, *arguments: str | Path, given: bytes = b"") -> str:
        done = self.run(*arguments, given=given)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
        return done.stdout.decode()

    def fails(self, code: int, *arguments: str | Path, given: bytes = b"") -> str:
        """What stands on standard error; standard output must be empty."""
        done = self.run(*arguments, given=given)
        assert (done.returncode, done.stdout) == (code, b""), f"{arguments}: {done}"
        return done.stderr.decode()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("status", "--json"))
        return found

    @property
    def record(self) -> Path:
        return self.home / "sites" / "local" / "shared" / "service.json"

    def processes(self) -> list[psutil.Process]:
        """Everything that runs with this home."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HPCSERVE_HOME") == str(self.home) and process.status() != "zombie":
                    found.append(process)
        return found

    def gone(self) -> bool:
        return self.processes() == []


def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Waits for a condition, which most often takes a command: it is asked more seldom the longer it lasts."""
    began = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began
        assert waited_s < timeout_s, "it did not happen in time"
        time.sleep(min(max(0.05, waited_s / 10), 0.5))


def begun(process: subprocess.Popen[str]) -> bool:
    """Whether Python's own start, in which a Ctrl-C still shows a traceback, lies behind a command."""
    return "/msgspec/" in Path(f"/proc/{process.pid}/maps").read_text()


@contextlib.contextmanager
def user_in(home: Path) -> Iterator[User]:
    user = User(home)
    try:
        yield user
    finally:
        for process in user.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        until(user.gone)
