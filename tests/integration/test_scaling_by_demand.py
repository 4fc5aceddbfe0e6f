"""Replicas and pilots that come with the demand and go without it, in a real daemon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.errors import InvalidInput
from hpcserve.wire import admin
from tests.integration.conftest import NewDaemon
from tests.integration.daemon_tree import SERVABLES, deployment, status, until

pytestmark = pytest.mark.timeout(600)

SLOW_S = 0.4


def scale(client: Client, **wanted: float) -> None:
    client.call("publish", admin.Publish(path=str(SERVABLES / "tally")), admin.Published)
    client.call("deploy", admin.Deploy(servable="tally", **wanted), admin.Deployed)  # type: ignore[arg-type]


@pytest.mark.parametrize("new_daemon", ["local", "pbs"], indirect=True)
def test_from_none_to_many_and_back_with_the_controller_killed_on_the_way(
    new_daemon: NewDaemon, tmp_path: Path
) -> None:
    daemon = new_daemon(pilots={"slots": 2, "max_pilots": 3, "idle_s": 1.0, "queue_wait_s": 0.0}).up()
    log = tmp_path / "log"
    parameters = {"log": str(log), "sleep_s": SLOW_S}
    with daemon.client(timeout_s=None) as client:
        scale(client, replicas=0, max_replicas=4, idle_s=6.0)
        view = deployment(client, "tally")
        assert (view.state, view.wanted, status(client).pilots) == ("idle", 0, ())
        assert client.infer("tally.again", np.int64(0), parameters=parameters)["n"] == 0
        assert len(status(client).pilots) == 1

        # It learns how long one takes, and that so many are not done in a minute by one replica.
        futures = [client.submit("tally.again", np.int64(n), parameters=parameters) for n in range(120)]
        until(lambda: len(daemon.replica_pids(client, "tally")) >= 2, "several replicas work", 90)
        assert ", because " in deployment(client, "tally").plan
        before = set(daemon.replica_pids(client, "tally"))
        daemon.kill("controller")
        until(lambda: deployment(client, "tally").replicas, "there is a controller", 60)
        assert before <= set(daemon.replica_pids(client, "tally", at_least=len(before)))
        assert [int(each.result(180)["n"]) for each in futures] == list(range(120))

        until(lambda: deployment(client, "tally").state == "idle", "nobody asks any more", 90)
        until(lambda: not status(client).pilots, "the pilots gave their nodes back", 90)
        assert deployment(client, "tally").plan == "no replica, because nobody asked for 6 s"
        assert client.infer("tally.again", np.int64(7), parameters=parameters, timeout_s=60)["n"] == 7
        assert deployment(client, "tally").restarts == 0


WRONG: list[tuple[dict[str, float], str]] = [
    ({"replicas": 3, "max_replicas": 2}, "replicas, the minimum, is 3; expected at most max_replicas, 2"),
    ({"max_replicas": 0}, "max_replicas is 0; expected 1 or more"),
    ({"max_replicas": 1000}, "at most 64 replicas fit into this site"),
    ({"max_replicas": 2, "hot_replicas": 3}, "hot_replicas is 3; expected from 0 to max_replicas, 2"),
    ({"max_replicas": 2, "idle_s": 0.0}, "idle_s is 0.0; expected seconds, more than 0"),
    ({"hot_replicas": 1}, "hot_replicas is set, and max_replicas is not"),
    ({"idle_s": 5.0}, "idle_s is set, and max_replicas is not"),
]


def test_limits_that_make_no_sense(new_daemon: NewDaemon) -> None:
    with new_daemon().up().client() as client:
        for wanted, words in WRONG:
            with pytest.raises(InvalidInput) as caught:
                scale(client, **{"replicas": 0, **wanted})
            assert words in caught.value.message


def small_ones(client: Client, count: int) -> list[str]:
    """The names of so many deployments of one replica at most, that nobody keeps for long."""
    client.call("publish", admin.Publish(path=str(SERVABLES / "tally")), admin.Published)
    names = [f"d{number}" for number in range(count)]
    for name in names:
        wanted = admin.Deploy(servable="tally", endpoint=name, replicas=0, max_replicas=1, idle_s=1.0)
        client.call("deploy", wanted, admin.Deployed)
    return names


def test_more_deployments_than_slots_take_turns(new_daemon: NewDaemon) -> None:
    """Each is asked once, and gives its slot to the next: none keeps what it does not need."""
    daemon = new_daemon(pilots={"slots": 5, "max_pilots": 1, "idle_s": 300.0}).up()
    with daemon.client(timeout_s=None) as client:
        names = small_ones(client, 12)
        futures = [client.submit(f"{name}.measure", np.zeros(3, np.uint8), parameters={}) for name in names]
        assert [int(each.result(180)["size"]) for each in futures] == [3] * len(names)
        assert len(status(client).pilots) == 1


def test_one_that_has_all_makes_room_for_another(new_daemon: NewDaemon) -> None:
    """The second one is asked while the first one is, too: neither has to be idle before the other is served."""
    daemon = new_daemon(pilots={"slots": 2, "max_pilots": 1, "idle_s": 300.0}).up()
    with daemon.client(timeout_s=None) as client:
        client.call("publish", admin.Publish(path=str(SERVABLES / "tally")), admin.Published)
        for name in ("first", "second"):
            wanted = admin.Deploy(servable="tally", endpoint=name, replicas=0, max_replicas=2, hot_replicas=2)
            client.call("deploy", wanted, admin.Deployed)
        assert client.infer("first.measure", np.zeros(3, np.uint8), timeout_s=60)["size"] == 3
        until(lambda: _are_ready(client, "first", 2), "it has all the room", 60)
        assert deployment(client, "first").state == "ready"
        assert client.infer("second.measure", np.zeros(3, np.uint8), timeout_s=60)["size"] == 3
        until(lambda: _are_ready(client, "first", 1), "it has its share", 60)
        first = deployment(client, "first")
        assert (first.state, first.wanted, first.error, first.restarts) == ("ready", 2, "", 0)
        assert first.plan == (
            "1 replica, because it is in use; it wants 2, and room for 2 replicas is shared by 2 deployments"
        )
        assert len(status(client).pilots) == 1


def _are_ready(client: Client, name: str, count: int) -> bool:
    """Whether there are so many replicas, all of them ready."""
    return [each.state for each in deployment(client, name).replicas] == ["ready"] * count


def test_a_hundred_deployments_of_one_replica_each_of_which_a_few_are_asked(new_daemon: NewDaemon) -> None:
    """More than fit at once; those that nobody asks cost nobody anything."""
    daemon = new_daemon(pilots={"slots": 2, "max_pilots": 1, "idle_s": 300.0}).up()
    with daemon.client(timeout_s=None) as client:
        names = small_ones(client, 100)
        told = status(client)
        assert [each.state for each in told.deployments] == ["idle"] * len(names)
        assert all(each.plan.startswith("no replica, because") for each in told.deployments)
        asked = (names[0], names[50], names[99])
        futures = [client.submit(f"{name}.measure", np.zeros(3, np.uint8), parameters={}) for name in asked]
        assert [int(each.result(120)["size"]) for each in futures] == [3] * len(asked)
        assert len(status(client).pilots) == 1
