"""A shared directory whose name a shell would take for something else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.integration.daemon_tree import EXAMPLES
from tests.integration.pbs.daemon import DaemonOnPbs
from tests.integration.pbs.server import PbsServer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def odd(pbs: PbsServer, tmp_path: Path) -> Iterator[DaemonOnPbs]:
    place = tmp_path / 'it\'s "one" for 5 $ & `x`; #1'
    place.mkdir(mode=0o700)
    daemon = DaemonOnPbs(place, pbs)
    try:
        yield daemon
    finally:
        daemon.end()


def test_a_pilot_serves_from_a_directory_that_has_to_be_quoted(pbs: PbsServer, odd: DaemonOnPbs) -> None:
    odd.up()
    with odd.client() as client:
        endpoint = odd.serve(client, EXAMPLES / "echo")
        assert client.infer(f"{endpoint}.echo", np.ones(1, np.float32), timeout_s=60)["x"] == 1
        (job,) = pbs.jobs().values()
        assert job["shell"] == str(odd.shared / "pbs-shell"), "it is led by the shell that lets it drain"
    odd.down()
    pbs.reaches(job["id"], "F")
