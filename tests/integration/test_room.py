"""A site with room for two replicas: what can never fit is refused, what finds no room now is told why."""

from __future__ import annotations

import pytest

from hpcserve import Client
from hpcserve.cli.deploy import wait_ready
from hpcserve.errors import DeadlineExceeded, InvalidInput
from hpcserve.wire import admin
from tests.integration.daemon_tree import EXAMPLES, Daemon, deployment, until

OVERRIDES = {"pilots": {"slots": 2, "max_pilots": 1}}
LIMIT = "at most 2 replicas fit into this site: pilots.max_pilots 1 × pilots.slots 2"


def serve(client: Client, endpoint: str, replicas: int) -> admin.Deployed:
    wanted = admin.Deploy(servable="echo", endpoint=endpoint, replicas=replicas)
    return client.call("deploy", wanted, admin.Deployed)


def test_replicas_for_which_there_is_no_room(daemon: Daemon) -> None:
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
        assert deployment(client, "first").error == ""
        client.call("undeploy", admin.Undeploy(endpoint="first"), admin.Undeployed)
        wait_ready(client, second, timeout_s=30)
        assert deployment(client, "second").error == ""
