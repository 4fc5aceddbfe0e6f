"""Half a service record: whoever reads it says so and tries again, and the daemon writes it anew."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpcserve.client.services import Service
from hpcserve.errors import ServiceUnavailable
from tests.integration.daemon_tree import PATIENCE_S, SERVABLES, Daemon, is_alive, status, until

OVERRIDES = {"recovery": {"lease_s": 1.0}}
NOT_WHOLE = "not a whole service record"


def half(record: Path) -> None:
    """Leaves half of it, as a copy that was cut off does."""
    content = record.read_bytes()
    record.write_bytes(content[: len(content) // 2])


def tries(daemon: Daemon, who: str) -> int:
    """How often the log of a pilot or a replica has told of half a record."""
    return sum(log.read_text().count(NOT_WHOLE) for log in (daemon.shared / "logs").glob(f"{who}-*.log"))


@pytest.mark.parametrize("damage", [half, Path.unlink], ids=["half", "removed"])
def test_a_running_daemon_writes_its_record_again(daemon: Daemon, damage: Callable[[Path], None]) -> None:
    whole = daemon.record.read_bytes()
    damage(daemon.record)
    until(lambda: daemon.record.exists() and daemon.record.read_bytes() == whole, "the record is whole again")
    with daemon.client() as client:
        assert status(client).processes["supervisor"] == daemon.pid_of("supervisor")


def test_who_meets_half_a_record_waits_for_the_rest(daemon: Daemon) -> None:
    with daemon.client() as client:
        endpoint = daemon.deploy(client, SERVABLES / "spans")
        (replica,) = daemon.replica_pids(client, endpoint)
        parameters = {"log": str(daemon.home / "spans"), "sleep_s": 0.0}
        supervisor = daemon.pid_of("supervisor")
        os.kill(supervisor, signal.SIGSTOP)  # or it would write the record at once
        try:
            half(daemon.record)
            os.kill(daemon.pid_of("broker"), signal.SIGKILL)
            future = client.submit(f"{endpoint}.run", np.int64(7), parameters=parameters, timeout_s=100.0)
            for who in ("pilot", "spans"):
                until(lambda: tries(daemon, who) >= 2, f"the {who} has tried twice")  # noqa: B023 (called here)
            with daemon.environment(), pytest.raises(ServiceUnavailable, match=NOT_WHOLE):
                Service(daemon.record).read()
            assert not future.done()
        finally:
            os.kill(supervisor, signal.SIGCONT)
        assert int(future.result(PATIENCE_S)["n"]) == 7
        assert daemon.replica_pids(client, endpoint) == [replica]
        assert is_alive(replica)
