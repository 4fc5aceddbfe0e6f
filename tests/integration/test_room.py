"""A site with room for two replicas: what can never fit is refused, what finds no room now is told why."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from hpcserve import Client
from hpcserve.cli import hindrance
from hpcserve.cli.deploy import wait_ready
from hpcserve.errors import DeadlineExceeded, InvalidInput
from hpcserve.wire import admin
from tests.integration.daemon_tree import EXAMPLES, Daemon, deployment, until

OVERRIDES = {
    "pilots": {"slots": 2, "max_pilots": 1},
    "mpi": {"command": str(Path(sys.executable).with_name("mpiexec"))},
}
LIMIT = "at most 2 replicas fit into this site: pilots.max_pilots 1 × pilots.slots 2"


def serve(client: Client, endpoint: str, replicas: int) -> admin.Deployed:
    wanted = admin.Deploy(servable="echo", endpoint=endpoint, replicas=replicas)
    return client.call("deploy", wanted, admin.Deployed)


def test_replicas_for_which_there_is_no_room(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon.client() as client:
        client.call("publish", admin.Publish(path=str(EXAMPLES / "echo")), admin.Published)
        with pytest.raises(InvalidInput, match=f"replicas is 3; expected 0 or more; {LIMIT}"):
            serve(client, "first", 3)
        wait_ready(client, serve(client, "first", 2), timeout_s=30)
        second = serve(client, "second", 1)
        reason = f"{LIMIT}, and first has 2; undeploy one, or deploy with fewer replicas"
        assert until(lambda: deployment(client, "second").error, "it is told why") == reason
        with pytest.raises(DeadlineExceeded, match=f"second is still starting after 0.1 s: {reason}; see: "):
            wait_ready(client, second, timeout_s=0.1)
        monkeypatch.setattr(hindrance, "LASTS_S", 0.0)
        assert capsys.readouterr().err == "", "it has not lasted"
        with pytest.raises(DeadlineExceeded):
            wait_ready(client, second, timeout_s=0.1)
        assert capsys.readouterr().err == f"0 of 1 are ready: {reason}\n"
        assert deployment(client, "first").error == ""
        client.call("undeploy", admin.Undeploy(endpoint="first"), admin.Undeployed)
        wait_ready(client, second, timeout_s=30)
        assert deployment(client, "second").error == ""
        client.call("undeploy", admin.Undeploy(endpoint="second"), admin.Undeployed)


@pytest.mark.parametrize(
    ("ranks", "told"),
    [
        ("size = 8", "ranks.size 8 on 1 node takes 8 slots of each, and a node has pilots.slots 2: use fewer ranks"),
        ("size = 2\nnodes = 2", "ranks.nodes 2: a pilot has pilots.nodes 1, and a replica is in one pilot"),
    ],
)
def test_a_replica_that_is_wider_than_a_pilot(daemon: Daemon, tmp_path: Path, ranks: str, told: str) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(EXAMPLES / "echo", wide)
    with (wide / "servable.toml").open("a") as file:
        file.write(f"\n[ranks]\n{ranks}\n")
    with daemon.client() as client:
        client.call("publish", admin.Publish(path=str(wide)), admin.Published)
        with pytest.raises(InvalidInput, match=f"a replica of echo does not fit into this site: {told}"):
            serve(client, "wide", 1)


def test_more_wide_replicas_than_fit_and_the_slots_of_one(daemon: Daemon, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(EXAMPLES / "echo", wide)
    with (wide / "servable.toml").open("a") as file:
        file.write("\n[ranks]\nsize = 2\n")
    with daemon.client() as client:
        client.call("publish", admin.Publish(path=str(wide)), admin.Published)
        told = "replicas is 2; expected 0 or more; at most 1 replica of 2 slots fits into this site: "
        with pytest.raises(InvalidInput, match=told):
            serve(client, "wide", 2)
        serve(client, "wide", 1)

        def used() -> list[int]:
            status = client.call("status", admin.AskStatus(), admin.Status)
            return [each.slots for each in deployment(client, "wide").replicas] + [each.used for each in status.pilots]

        until(lambda: used() == [2, 2], "it takes both slots of the only pilot")
