"""What ends leaves no more behind than was asked for, however often something ends."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, Daemon, status, until

KEPT = 2


def pilots(daemon: Daemon) -> list[tuple[str, str]]:
    """The id and state of each pilot in the store, oldest first."""
    with closing(sqlite3.connect(f"file:{daemon.state}/hpcserve.db?mode=ro", uri=True)) as store:
        return store.execute("SELECT id, state FROM pilots ORDER BY submitted_s").fetchall()


def logs(daemon: Daemon) -> set[str]:
    """Whose logs there are, those of the daemon's own processes aside."""
    found = {path.name.partition(".")[0] for path in (daemon.shared / "logs").iterdir()}
    return {name for name in found if not name.startswith("daemon-")}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_of_the_pilots_that_ended_the_last_are_kept(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(pilots={"keep_ended": KEPT}).up()
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        gone: list[str] = []

        def newcomers() -> list[admin.PilotView]:
            return [each for each in status(client).pilots if each.pid is not None and each.pilot not in gone]

        def is_served() -> bool:
            (view,) = status(client).deployments
            ready = {each.pilot for each in view.replicas if each.state == "ready"}
            return any(each.pilot in ready for each in newcomers())

        for _ in range(4):
            until(is_served, "a replica in it is ready")
            (pilot,) = newcomers()
            assert pilot.pid is not None
            os.kill(pilot.pid, signal.SIGKILL)
            gone.append(pilot.pilot)
        until(newcomers, "an agent reports")
        (alive,) = newcomers()
        until(lambda: len(pilots(daemon)) == KEPT + 1, "the store forgets the others")
        assert pilots(daemon) == [(gone[-2], "ended"), (gone[-1], "ended"), (alive.pilot, "enrolled")]
        records = [name.partition(".")[0] for name in names(daemon.state / "local-jobs") if name.endswith(".json")]
        assert sorted(records) == sorted([*gone[-2:], alive.pilot])
        daemon.replica_pids(client, "echo")
        (view,) = status(client).deployments
        live = {alive.pilot, *(each.replica for each in view.replicas)}
        quiet = [daemon.shared / "logs" / f"{name}.log" for name in live]
        for log in quiet:
            log.touch()
            os.utime(log, (0, 0))
        assert alive.pid is not None
        os.kill(alive.pid, signal.SIGSTOP)  # until it speaks, the next controller knows of no replica
        try:
            daemon.kill("controller")
            until(lambda: [each.state for each in status(client).pilots] == ["running"], "the next controller looked")
            assert status(client).pilots[0].pid is None
        finally:
            os.kill(alive.pid, signal.SIGCONT)
        until(lambda: len(logs(daemon) - live) == KEPT, "the next controller removes old logs")
        assert all(log.exists() for log in quiet)
        assert gone[-1] in logs(daemon)
    assert daemon.down() == 0
    assert names(daemon.shared / "enrolments") == []
