"""Collective ranks that are lost for want of memory: their successors do not try the same batch again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import SERVABLES, until
from tests.integration.rank_rig import MPIEXEC

ROOM = 4
BURST = 24


def burst(client: Client) -> None:
    """Many requests at once are all answered right."""
    sent = [client.submit("crowd.twice", np.array([n]), timeout_s=120.0) for n in range(BURST)]
    assert [int(each.result(120.0)["y"][0]) for each in sent] == [2 * n for n in range(BURST)]


def test_a_batch_that_ended_its_group_for_want_of_memory_is_formed_once(
    new_daemon: NewDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "sizes"
    notes.touch()
    monkeypatch.setenv("NOTES", str(notes))
    daemon = new_daemon(pilots={"slots": 2}, mpi={"command": str(MPIEXEC)}).up()

    def sizes() -> list[int]:
        return [int(line) for line in notes.read_text().split()]

    with daemon.client() as client:
        daemon.deploy(client, SERVABLES / "crowd")
        daemon.replica_pids(client, "crowd")

        def too_large() -> bool:
            burst(client)
            return max(sizes()) > ROOM

        until(too_large, "a batch is too large", 60.0)
        before = len(sizes())
        for _ in range(20):
            burst(client)
        assert max(sizes()[before:]) > 1, "requests are joined again"
    assert len([size for size in sizes() if size > ROOM]) == 1
