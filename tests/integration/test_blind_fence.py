"""A daemon that cannot look at its lease submits and cancels no pilot, and says so to whoever asks."""

from __future__ import annotations

from hpcserve.cli.status import drawn
from hpcserve.wire.admin import Down, GoingDown
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import EXAMPLES, status, until

WITHIN_S = 60.0
BLIND = "no pilot is submitted or cancelled, since the daemon cannot know that it still has its lease: "


def test_it_is_told_by_status_and_down_until_it_is_over(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(recovery={"lease_s": 1.0}, pilots={"stop_grace_s": 1.0}).up()
    away = daemon.shared.with_name("away")
    with daemon.client() as client:
        daemon.deploy(client, EXAMPLES / "echo")
        assert status(client).trouble == ""
        daemon.shared.rename(away)
        daemon.shared.touch()  # so nobody can look into it, root neither
        try:
            until(lambda: status(client).trouble.startswith(BLIND), "it says so", WITHIN_S)
            told = status(client)
            assert told.trouble in [str(each) for each in drawn(told)]
            daemon.shared.unlink()
            away.rename(daemon.shared)
            until(lambda: not status(client).trouble, "it is over", WITHIN_S)
            daemon.shared.rename(away)
            daemon.shared.touch()
            until(lambda: status(client).trouble, "it says so again", WITHIN_S)
            assert client.call("down", Down(), GoingDown).trouble.startswith(BLIND)
        finally:
            if away.exists():
                daemon.shared.unlink()
                away.rename(daemon.shared)
    until(lambda: not daemon.commands(), "it goes down with its pilots after all", WITHIN_S)
