"""A servable is shared with a group of Globus on a service where nobody has named one, whatever ends in between."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcserve import Client, examples
from hpcserve.errors import ServiceUnavailable, UnknownEndpoint
from tests.acceptance.house import House, X, house_in
from tests.acceptance.newcomer import User, until

WITHIN_S = 60.0
GROUPS = "GET /v2/groups/my_groups"


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    with house_in(tmp_path, administer="user:ops@lab.example") as made:
        for name, value in made.globus.globus.environment.items():
            monkeypatch.setenv(name, value)
        made.ops.ok("publish", examples.path("echo"), "--visible-to", "private")
        made.ops.ok("deploy", "echo", "--endpoint", "echo")
        made.ops.ok(*made.call)
        yield made


def kill_broker(house: House) -> None:
    """And wait for the next one, which knows whom it may let in again."""
    before = house.ops.status()["processes"]["broker"]
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        told = house.ops.run("status", "--json")
        return not told.returncode and json.loads(told.stdout)["processes"]["broker"] not in (None, before)

    until(is_back, WITHIN_S)
    house.ops.ok(*house.call)


def calls(client: Client) -> bool:
    """Whether the call goes through; until the groups are known, nobody is told what exists."""
    try:
        return bool(client.infer("echo.echo", X) is not None)
    except ServiceUnavailable:
        return False


def sees(user: User) -> bool:
    return [each["name"] for each in user.status()["servables"]] == ["echo"]


def test_a_group_that_is_named_first_when_a_servable_is_shared_counts_at_once_and_for_every_broker(
    house: House,
) -> None:
    member, stranger = house.logged_in(), house.logged_in()
    group = house.globus.world.add_group("allocation", [house.person(member)])
    asked = house.globus.globus.faults.asked
    unknown = "error: no endpoint 'echo'; there are none\n"
    with house.client(member) as client:
        for broker in ("first", "second"):
            with pytest.raises(UnknownEndpoint):
                client.infer("echo.echo", X)
            assert stranger.fails(5, *house.call) == unknown
            if broker == "first":
                kill_broker(house)
        assert not sees(member)
        assert "not asked for: no rule here names one" in member.ok("whoami")
        assert not asked[GROUPS]

        house.ops.ok("share", "echo", "--visible-to", f"group:{group.id}")
        for broker in ("first", "second"):
            until(lambda: calls(client), WITHIN_S)
            member.ok(*house.call)
            assert sees(member)
            assert stranger.fails(5, *house.call) == unknown
            assert not sees(stranger)
            if broker == "first":
                kill_broker(house)
