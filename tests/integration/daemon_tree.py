"""A whole daemon of its own for tests: its home, its site file with short times, its process tree."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from hpcserve import Client
from hpcserve.client.services import Service
from hpcserve.wire import admin

SERVABLES = Path(__file__).resolve().parents[1] / "data" / "servables"
EXAMPLES = Path(__file__).resolve().parents[2] / "hpcserve" / "examples"
PATIENCE_S = 60.0

SITE = {
    "scheduler": {"poll_s": 0.2},
    "pilots": {"orphan_s": 30.0, "stop_grace_s": 1.0, "setup_timeout_s": 20.0, "log_bytes": 1 << 20},
    "recovery": {"recovery_grace_s": 10.0, "session_linger_s": 2.0, "hang_grace_s": 5.0, "lease_s": 3.0},
}

T = TypeVar("T")


def until(condition: Callable[[], T], what: str | Callable[[], str], within_s: float = PATIENCE_S) -> T:
    """Waits for a condition to hold, and returns what it gave.

    Args:
        condition: What is to hold.
        what: How it is called should it not; a function is called at the end of the wait, and may say how things are.
        within_s: So long it is waited for.
    """
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)


def let_replicas_be_told() -> None:
    """Waits until a replica has heard of what was taken back: nothing shows it, and the broker says it now and then.

    In many short steps, so that a machine that stands still meanwhile does not use up the time.
    """
    for _ in range(20):
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_of(pid: int) -> str:
    """The command line of a process, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Daemon:
    """One daemon; its home is ``place / "home"``. ``overrides`` are tables of the site file."""

    def __init__(self, place: Path, **overrides: dict[str, Any]) -> None:
        self.home = place / "home"
        self.home.mkdir(mode=0o700)
        self.site = place / "site.toml"
        self.state = self.home / "sites" / "site" / "state"
        self.shared = self.home / "sites" / "site" / "shared"
        self.record = self.shared / "service.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.write_site(**overrides)

    def write_site(self, **overrides: dict[str, Any]) -> None:
        lines = []
        for table in SITE.keys() | overrides.keys():
            values = SITE.get(table, {}) | overrides.get(table, {})
            lines += [f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        self.site.write_text("\n".join(lines) + "\n")

    @property
    def variables(self) -> dict[str, str]:
        """The environment of everything that belongs to this daemon."""
        # The last one is for us: a replica inherits none of hpcserve's own.
        return {"HPCSERVE_HOME": str(self.home), "HPCSERVE_SITE": str(self.site), "TEST_DAEMON": str(self.home)}

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        """This process is, for a while, one of this home."""
        before = os.environ.copy()
        os.environ.update(self.variables)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    def rival(self) -> Daemon:
        """Another daemon of the same home, not started."""
        other = copy.copy(self)
        other.process = None
        return other

    # --- its life -----------------------------------------------------------------------------------

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts the daemon and waits for nothing. It goes down should the tests be killed."""
        self._close_pipes()
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what it runs in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hpcserve.daemon", "--site", str(self.site), "--tied", "--ready-fd", "1"],
            env=os.environ | self.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self.process

    def start(self) -> dict[str, Any]:
        """Starts the daemon; returns what it reports once it is ready, or that it cannot be."""
        process = self.spawn()
        assert process.stdout is not None
        with process.stdout as lines:
            said: dict[str, Any] = json.loads(lines.readline())
        return said

    def up(self) -> Self:
        """Starts the daemon, which has to succeed."""
        said = self.start()
        assert not said.get("error"), said["error"]
        return self

    def down(self) -> int:
        """Ends the daemon as a terminal would, and everything of it; returns its exit code."""
        process = self.process
        assert process is not None
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        code = process.wait(PATIENCE_S)
        self._close_pipes()
        until(lambda: not self.processes(), lambda: f"no process of it is left: {self.commands()}")
        return code

    def end(self) -> None:
        """For the end of a test: whatever the state, nothing is left, and an orderly end leaves nothing by itself."""
        if self.process is not None and self.process.poll() is None:
            self.down()
        self._close_pipes()
        left = self.commands()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"processes were left: {left}"

    def _close_pipes(self) -> None:
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()

    # --- its processes --------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """Every living process that was started with this home."""
        needle = f"TEST_DAEMON={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if needle in (entry / "environ").read_bytes().split(b"\0") and is_alive(int(entry.name)):
                    found.append(int(entry.name))
        return sorted(found)

    def commands(self) -> list[str]:
        """What these processes are, for a failed test's words."""
        return [f"{pid}: {command_of(pid)[:120]}" for pid in self.processes()]

    def pid_of(self, name: str) -> int:
        """The pid of the daemon's process ``name``, or of the supervisor."""
        if name == "supervisor":
            assert self.process is not None
            return self.process.pid
        return until(
            lambda: next((pid for pid in self.processes() if f"hpcserve.daemon.{name} " in command_of(pid)), 0),
            f"{name} runs",
        )

    def kill(self, name: str) -> int:
        """SIGKILL to the daemon's process ``name``; returns its pid."""
        pid = self.pid_of(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid), f"{name} is gone")
        if name == "supervisor" and self.process is not None:
            self.process.wait()
        return pid

    # --- its service ----------------------------------------------------------------------------------

    def client(self, **options: Any) -> Client:
        """A client with this home's key."""
        with self.environment():
            return Client(Service(self.record), **options)

    def deploy(self, client: Client, servable: Path, replicas: int = 1, endpoint: str | None = None) -> str:
        """Publishes and deploys; returns the endpoint."""
        published = client.call("publish", admin.Publish(path=str(servable)), admin.Published)
        wanted = admin.Deploy(servable=published.name, endpoint=endpoint, replicas=replicas)
        return client.call("deploy", wanted, admin.Deployed).endpoint

    def replica_pids(self, client: Client, endpoint: str, at_least: int = 1) -> list[int]:
        """The processes of a deployment's replicas, once so many are ready."""

        def ready() -> list[int]:
            view = deployment(client, endpoint)
            found = [each.pid for each in view.replicas if each.state == "ready" and each.pid is not None]
            return found if len(found) >= at_least else []

        return until(ready, f"{at_least} replicas of {endpoint} are ready")


def status(client: Client) -> admin.Status:
    """Everything that the daemon tells of itself."""
    return client.call("status", admin.AskStatus(), admin.Status)


def deployment(client: Client, endpoint: str) -> admin.DeploymentView:
    """One deployment in the status."""
    return next(each for each in status(client).deployments if endpoint in each.endpoints)
