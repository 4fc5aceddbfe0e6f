"""A client that leaves ends its streams at once, though it would have long to come back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.integration.daemon_tree import SERVABLES, Daemon, until

LINGER_S = 600.0


def made(log: Path) -> int:
    """How far the producer is."""
    return int(log.read_text() or -1) if log.exists() else -1


def is_past(log: Path, number: int) -> bool:
    return made(log) > number


@pytest.mark.parametrize("unix_sockets", [True, False])
def test_a_bye_is_heard_though_items_come_before_it(
    new_daemon: Callable[..., Daemon], tmp_path: Path, *, unix_sockets: bool
) -> None:
    """The broker is stopped while the client leaves and the replica goes on: it reads the items first."""
    daemon = new_daemon(network={"unix_sockets": unix_sockets}, recovery={"session_linger_s": LINGER_S}).up()
    log = tmp_path / "log"
    with daemon.client() as watcher:
        daemon.deploy(watcher, SERVABLES / "streams")
        daemon.replica_pids(watcher, "streams")
        broker = daemon.pid_of("broker")
        client = daemon.client()
        items = client.stream("streams.slow", np.int64(10**9), parameters={"log": str(log), "pause_s": 0.02})
        next(items)
        os.kill(broker, signal.SIGSTOP)
        try:
            before = made(log)
            until(partial(is_past, log, before + 2), "items that the broker has not read")
            client.close()
        finally:
            os.kill(broker, signal.SIGCONT)
        until(log.with_name(log.name + ".ended").exists, "the producer has ended")
