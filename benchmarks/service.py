"""A real daemon with its pilot for the time of a benchmark, in a home of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hpcserve
from benchmarks.processes import children
from hpcserve.client.sync import Client
from hpcserve.daemon.launch import DaemonReport, decode_line
from hpcserve.wire import admin

SERVABLES = Path(__file__).parent / "servables"
ECHO = Path(hpcserve.__file__).parent / "examples" / "echo"
PATIENCE_S = 60.0


class Service:
    """A daemon that runs.

    Args:
        pid: Its supervisor's.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def pids(self) -> dict[str, int]:
        """The daemon's processes by name, the supervisor first."""
        found = {"supervisor": self.pid}
        for pid in children(self.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            found |= {word.rpartition(b".")[2].decode(): pid for word in words if word.startswith(b"hpcserve.daemon.")}
        return found

    def status(self) -> admin.Status:
        """What ``hpcserve status`` would tell."""
        with Client() as client:
            return client.call("status", admin.AskStatus(), admin.Status)

    def deploy(self, servable: Path, **wanted: Any) -> None:
        """Publishes and deploys one replica, and waits until it is ready and has heard of what is wanted."""
        with Client() as client:
            published = client.call("publish", admin.Publish(path=str(servable)), admin.Published)
            client.call("deploy", admin.Deploy(servable=published.name, **wanted), admin.Deployed)
            until = time.monotonic() + PATIENCE_S
            while time.monotonic() < until:
                status = client.call("status", admin.AskStatus(), admin.Status)
                if all(each.state == "ready" for each in status.deployments):
                    return
                time.sleep(0.05)
        raise TimeoutError(f"{servable.name} was not ready within {PATIENCE_S:g} s")

    def deploy_echo(self, replicas: int) -> list[int]:
        """Serves the example ``echo``; returns the replicas' pids when all are connected."""
        with Client() as client:
            client.call("publish", admin.Publish(path=str(ECHO)), admin.Published)
            client.call("deploy", admin.Deploy(servable="echo", replicas=replicas), admin.Deployed)
            until = time.monotonic() + PATIENCE_S
            while time.monotonic() < until:
                status = client.call("status", admin.AskStatus(), admin.Status)
                there = [each for one in status.deployments for each in one.replicas if each.connected]
                if len(there) == replicas:
                    return [each.pid for each in there if each.pid is not None]
                time.sleep(0.05)
        raise TimeoutError(f"{replicas} replicas of echo were not ready within {PATIENCE_S:g} s")


@contextlib.contextmanager
def own_home() -> Iterator[Path]:
    """An empty ``HPCSERVE_HOME``, for this process and those that it starts."""
    before = {name: value for name, value in os.environ.items() if name.startswith("HPCSERVE_")}
    home = Path(tempfile.mkdtemp(prefix="hpcserve-bench-"))
    for name in before:
        del os.environ[name]
    os.environ["HPCSERVE_HOME"] = str(home)
    try:
        yield home
    finally:
        for name in [name for name in os.environ if name.startswith("HPCSERVE_")]:
            del os.environ[name]
        os.environ.update(before)
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def running(site: str | None = None) -> Iterator[Service]:
    """A daemon in a home of its own; it and its pilots are gone at the end.

    Args:
        site: The content of its site file; default: site ``local``.
    """
    with own_home() as home:
        if site is not None:
            (home / "site.toml").write_text(site)
            os.environ["HPCSERVE_SITE"] = str(home / "site.toml")
        with running_in(home) as service:
            yield service


@contextlib.contextmanager
def running_in(home: Path) -> Iterator[Service]:
    """The same, in the ``HPCSERVE_HOME`` that this process has."""
    ready, report = os.pipe()
    log = home / "daemon.log"
    with log.open("wb") as stderr:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "hpcserve.daemon", "--tied", "--ready-fd", str(report)],
            stdin=subprocess.PIPE,
            stderr=stderr,
            pass_fds=(report,),
            start_new_session=True,
        )
    os.close(report)
    try:
        with open(ready, "rb") as line:
            report_line = line.readline()
        if not report_line or decode_line(report_line, DaemonReport).error is not None:
            raise RuntimeError(f"the daemon did not start: {report_line.decode()} {log.read_text()}")
        yield Service(daemon.pid)
    finally:
        assert daemon.stdin is not None, "it was asked to be a pipe"
        daemon.stdin.close()
        daemon.wait(PATIENCE_S)
