"""A daemon whose pilots are jobs of the stand-in for PBS (it answers as an OpenPBS 23.06 server did)."""

from __future__ import annotations

import numpy as np

from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, status, until
from tests.integration.pbs.server import PbsServer

ONE = np.ones(1, np.float32)


def test_a_deployment_answers_from_a_job(pbs: PbsServer, new_daemon_on_pbs: NewDaemon) -> None:
    daemon = new_daemon_on_pbs().up()
    with daemon.client() as client:
        endpoint = daemon.deploy(client, EXAMPLES / "echo", replicas=2)
        assert client.infer(f"{endpoint}.echo", ONE, timeout_s=60)["x"] == 1
        until(lambda: {each.state for each in status(client).pilots} == {"running"}, "PBS has told of them")
        assert {each.job for each in status(client).pilots} == pbs.jobs().keys()
    daemon.down()
    until(lambda: all(each["state"] == "F" for each in pbs.jobs().values()), "no job is left", within_s=60)
