"""A whole hpcserve daemon on a cluster's login node, and a client of it in this process."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcserve import Client
from hpcserve.client.services import Service
from hpcserve.wire import admin
from tests.facility.box.files import LOGIN
from tests.facility.clusters import Cluster
from tests.integration.daemon_tree import EXAMPLES, SERVABLES, deployment, status, until

__all__ = ["EXAMPLES", "SERVABLES", "Facility", "deployment", "status", "until"]

PATIENCE_S = 60.0
SITE: dict[str, dict[str, Any]] = {
    "pilots": {"idle_s": 300.0, "stop_grace_s": 2.0, "slots": 4, "queue_wait_s": 5.0},
    "recovery": {"session_linger_s": 5.0, "lease_s": 3.0},
}
"""What stands above the site file of a cluster: times for tests."""


class Facility:
    """A daemon of its own, its home below the cluster's directory, which all nodes see.

    Args:
        cluster: Where it runs.
        name: Tells it from the others of the same cluster.
        sized: The directory of limited size that its ``shared_dir`` lies in; "": it lies in its home.
        user: Whose it is; "": root's. This one must be able to read the project and its virtual environment.
        overrides: Tables of the site file.
    """

    def __init__(
        self, cluster: Cluster, name: str, *, sized: str = "", user: str = "", **overrides: dict[str, Any]
    ) -> None:
        self.cluster = cluster
        self.user = user
        self.login = LOGIN
        """Where the daemon was started last, and commands are run by default."""
        self.home = cluster.directory / "homes" / name
        self.home.mkdir(mode=0o700, parents=True)
        self.site = self.home / "site.toml"
        self._sized = cluster.directory / sized / name if sized else None
        self.shared = cluster.seen(self._sized) if self._sized else self.home / "sites" / "site" / "shared"
        self.logs = self.shared / "logs"
        self.write_site(**overrides)
        if user:
            for path in (self.home, self.site):
                shutil.chown(path, user)

    def write_site(self, **overrides: dict[str, Any]) -> None:
        """Writes the site file anew."""
        site = self.cluster.site
        lines = [f'base = "{self.cluster.base}"', *([f'shared_dir = "{self._sized}"'] if self._sized else [])]
        for table in {**site, **SITE, **overrides}:
            values = {**site.get(table, {}), **SITE.get(table, {}), **overrides.get(table, {})}
            lines += [f"[{table}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        self.site.write_text("\n".join(lines) + "\n")

    @property
    def variables(self) -> dict[str, str]:
        """The environment of everything that belongs to it."""
        return {"HPCSERVE_HOME": str(self.home), "HPCSERVE_SITE": str(self.site)}

    def command(
        self, *argv: str, login: str = "", env: dict[str, str] | None = None, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``hpcserve`` on a login node to its end, whatever that is."""
        command = self.argv(*argv, env=env)
        return self.cluster.run(login or self.login, command, timeout_s=timeout_s, check=False)

    def argv(self, *argv: str, env: dict[str, str] | None = None) -> list[str]:
        """The whole command ``hpcserve``, as its user's."""
        # By env(1), since a PATH of its own may lack what leads to the login node.
        variables = [f"{name}={value}" for name, value in (self.variables | (env or {})).items()]
        become = ["setpriv", f"--reuid={self.user}", "--clear-groups"] if self.user else []
        return [*become, "env", *variables, sys.executable, "-m", "hpcserve.cli.main", *argv]

    def cli(
        self,
        *argv: str,
        check: bool = True,
        login: str = "",
        env: dict[str, str] | None = None,
        timeout_s: float = PATIENCE_S,
    ) -> str:
        """Runs ``hpcserve`` on a login node; what it printed, on both streams."""
        done = self.command(*argv, login=login, env=env, timeout_s=timeout_s)
        assert not check or done.returncode == 0, f"hpcserve {' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def up(self, env: dict[str, str] | None = None, login: str = LOGIN) -> Facility:
        """Starts the daemon."""
        self.login = login
        self.cli("up", "--detach", env=env)
        return self

    def end(self) -> None:
        """Takes the daemon down, whatever state it is in; no job of it is left."""
        self.cli("down", check=False)
        until(lambda: not self.jobs(), lambda: f"no job is left: {self.jobs()}", PATIENCE_S)

    def kill(self, process: str) -> None:
        """SIGKILL to one of the daemon's processes, or to all of them by the name ``all``."""
        with self.client() as client:
            pids = status(client).processes
        named = pids.values() if process == "all" else [pids[process]]
        # When all are killed, some may have ended with those before them.
        self.cluster.run(self.login, ["kill", "-KILL", *map(str, named)], check=process != "all")

    def jobs(self) -> dict[str, str]:
        """The jobs of pilots that have not ended: id to state."""
        return self.cluster.jobs()

    @contextlib.contextmanager
    def client(self, host: str = "", **options: Any) -> Iterator[Client]:
        """A client in this process, on the network of a host; "": of the daemon's login node."""
        with self.cluster.enter_network(host or self.login), pytest.MonkeyPatch.context() as patch:
            for name, value in self.variables.items():
                patch.setenv(name, value)
            with self._identity():
                made = Client(Service(self.shared / "service.json"), **options)
            with made:
                yield made

    @contextlib.contextmanager
    def _identity(self) -> Iterator[None]:
        """This process has the user's rights, as keys are only for their owner."""
        if self.user:
            os.seteuid(pwd.getpwnam(self.user).pw_uid)
        try:
            yield
        finally:
            if self.user:
                os.seteuid(0)

    def want(self, client: Client, servable: Path, replicas: int = 1) -> str:
        """Publishes and deploys, and waits for nothing; returns the endpoint."""
        published = client.call("publish", admin.Publish(path=str(servable)), admin.Published)
        wanted = admin.Deploy(servable=published.name, replicas=replicas)
        return client.call("deploy", wanted, admin.Deployed).endpoint

    def deploy(self, client: Client, servable: Path, replicas: int = 1) -> str:
        """Publishes and deploys, and waits until all replicas are ready; returns the endpoint."""
        endpoint = self.want(client, servable, replicas)
        self.wait_ready(client, endpoint, replicas)
        return endpoint

    def try_to_deploy(self, servable: Path, *, timeout_s: int, replicas: int = 1) -> tuple[int, str]:
        """``hpcserve publish`` and ``deploy``: the exit code of the latter, and what it said in one line."""
        self.cli("publish", str(servable))
        argv = ("deploy", servable.name, f"--timeout={timeout_s}", f"--replicas={replicas}")
        done = self.command(*argv, timeout_s=timeout_s + PATIENCE_S)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def told(self) -> str:
        """``hpcserve status`` in one line."""
        return " ".join(self.cli("status").split())

    def wait_ready(self, client: Client, endpoint: str, replicas: int = 1) -> None:
        """Waits until so many replicas are ready."""
        until(
            lambda: sum(each.state == "ready" for each in deployment(client, endpoint).replicas) >= replicas,
            lambda: f"{replicas} replicas of {endpoint} are ready; {deployment(client, endpoint).error}; {self.told()}",
            PATIENCE_S,
        )
