"""A whole daemon whose pilots are jobs of the stand-in for PBS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcserve import Client
from hpcserve.wire import admin
from tests.integration.daemon_tree import Daemon, deployment, status, until
from tests.integration.pbs.server import PbsServer

LONG_S = 60.0

SITE: dict[str, dict[str, Any]] = {
    "network": {"host": "127.0.0.1"},
    "scheduler": {"kind": "pbs", "timeout_s": 10.0, "poll_max_s": 1.0},
    "pilots": {"walltime_s": 3600.0, "slots": 1, "max_pilots": 4, "idle_s": 300.0, "queue_wait_s": 5.0},
}
"""What its site file has beside the tests' short times."""


class DaemonOnPbs(Daemon):
    """One daemon; ``overrides`` are tables of its site file."""

    def __init__(self, place: Path, pbs: PbsServer, **overrides: dict[str, Any]) -> None:
        self.pbs = pbs
        super().__init__(place, **{name: SITE.get(name, {}) | overrides.get(name, {}) for name in SITE | overrides})

    @property
    def variables(self) -> dict[str, str]:
        """With a PATH by which PBS's commands are found."""
        return super().variables | {"PATH": self.pbs.path}

    def serve(self, client: Client, servable: Path, replicas: int = 1) -> str:
        """Publishes and deploys, and waits until all replicas are ready; returns the endpoint."""
        endpoint = self.deploy(client, servable, replicas)
        self.wait_ready(client, endpoint, replicas)
        return endpoint

    def wait_ready(self, client: Client, endpoint: str, replicas: int = 1) -> None:
        until(
            lambda: sum(each.state == "ready" for each in deployment(client, endpoint).replicas) >= replicas,
            lambda: f"{replicas} replicas of {endpoint} are ready: {status(client)}",
            LONG_S,
        )

    def are(self, client: Client, *states: str) -> bool:
        """Whether the pilots are in these states, each in its own."""
        return sorted(each.state for each in pilots(client)) == sorted(states)


def pilots(client: Client) -> tuple[admin.PilotView, ...]:
    return tuple(status(client).pilots)


def only_replica(client: Client) -> str:
    (replica,) = status(client).deployments[0].replicas
    return replica.replica
