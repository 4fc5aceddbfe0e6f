"""One service, several people with keys of their own: who sees what, who may do what, and what is written down."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hpcserve import Client, examples
from hpcserve.auth.keys import load_or_create
from hpcserve.client.services import Service
from hpcserve.errors import PermissionDenied, UnknownEndpoint
from hpcserve.wire.admin import Down, GoingDown
from tests.acceptance.newcomer import User, until, user_in

SITE = """
base = "local"

[access]
call = { deny = ["user:eve"] }
publish = { allow = ["user:ada", "user:bob"] }
administer = { allow = ["user:ops"] }
"""
X = np.ones(1, np.float32)
PEOPLE = ("ops", "ada", "bob", "eve")


class Town:
    """The people, by name. The daemon is ``ops``'s."""

    def __init__(self, people: dict[str, User]) -> None:
        self.ops, self.ada, self.bob, self.eve = (people[name] for name in PEOPLE)
        x = self.ops.home / "x.npy"
        np.save(x, X)
        self.call = ("run", "secret.echo", "--input", f"x={x}")
        self.audit = self.ops.home / "sites" / "local" / "state" / "audit" / "controller.jsonl"

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        """The lines of the audit log that say this."""
        found = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [line for line in found if wanted.items() <= line.items()]

    def client(self, user: User) -> Client:
        """A client in this process, with a person's key."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HPCSERVE_HOME", str(user.home))
            return Client(Service(self.ops.record))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    place = tmp_path_factory.mktemp("town")
    with contextlib.ExitStack() as homes:
        people = {name: homes.enter_context(user_in(place / name)) for name in PEOPLE}
        lines = []
        for name, user in people.items():
            user.home.mkdir(mode=0o700)
            lines.append(f"{name} {load_or_create(user.home / 'client.key').public_z85}\n")
        ops = people["ops"]
        (ops.home / "sites").mkdir()
        (ops.home / "sites" / "local.toml").write_text(SITE)
        state = ops.home / "sites" / "local" / "state"
        state.mkdir(mode=0o700, parents=True)
        (state / "authorized_keys").write_text("".join(lines))
        (state / "authorized_keys").chmod(0o600)
        ops.ok("up", "--detach")
        for name in ("ada", "bob", "eve"):
            people[name].ok("service", "add", "town", ops.record)
            people[name].ok("service", "use", "town")
        made = Town(people)
        made.ada.ok("publish", examples.path("echo"), "--visible-to", "private")
        made.ada.ok("deploy", "echo", "--endpoint", "secret")
        yield made
        ops.ok("down")


def names(user: User) -> tuple[set[str], set[str]]:
    """The servables and the endpoints that somebody sees."""
    status = user.status()
    endpoints = {endpoint for each in status["deployments"] for endpoint in each["endpoints"]}
    return {each["name"] for each in status["servables"]}, endpoints


@pytest.fixture(autouse=True)
def _private(town: Town) -> None:
    """Whatever a test before has said."""
    if town.ada.status()["servables"][0]["visible_to"] != ["private"]:
        town.ada.ok("share", "echo", "--visible-to", "private")


def test_what_is_private_does_not_exist_for_others(town: Town) -> None:
    assert names(town.ada) == names(town.ops) == ({"echo"}, {"secret"})
    assert names(town.bob) == (set(), set())
    (replica,) = town.ada.status()["deployments"][0]["replicas"]
    for arguments in (town.call, ("undeploy", "secret")):
        assert town.bob.fails(5, *arguments) == "error: no endpoint 'secret'; there are none\n"
    assert town.bob.fails(5, "deploy", "echo") == "error: no servable 'echo' is published; there are none\n"
    assert town.bob.fails(5, "share", "echo", "--visible-to", "public").startswith("error: no servable 'echo'")
    pilot = town.ops.status()["pilots"][0]["pilot"]
    town.ops.ok("logs", pilot)
    for log in ("secret", replica["replica"], pilot):
        assert town.bob.fails(5, "logs", log) == f"error: no log of {log!r}; there are none\n"
    assert "[1.0]" in town.ada.ok(*town.call)
    town.ada.ok("logs", "secret")
    denied = {(line["action"], line["object"]) for line in town.lines(name="bob", allowed=False, by="visible_to")}
    assert denied == {
        ("see", "secret"),
        ("deploy", "echo"),
        ("administer", "echo"),
        ("see", "the log of secret"),
        ("see", f"the log of {replica['replica']}"),
        ("see", f"the log of {pilot}"),
    }


def test_a_name_is_its_first_publishers(town: Town) -> None:
    said = town.bob.fails(4, "publish", examples.path("echo"))
    assert said == "error: you may not publish echo: only its owner and administrators may\n"
    town.bob.ok("publish", examples.path("pi"))
    town.bob.ok("deploy", "pi", "--replicas", "0")
    assert "only its owner and administrators may" in town.ada.fails(4, "undeploy", "pi")
    assert "only its owner and administrators may" in town.ada.fails(4, "share", "pi", "--visible-to", "private")
    assert "only its owner and administrators may" in town.ada.fails(4, "deploy", "pi")
    town.ops.ok("undeploy", "pi")


def test_who_may_be_named_is_told_with_what_nobody_is(town: Town) -> None:
    assert "expected 'public', 'private', \"*\", \"user:NAME\"" in town.ada.fails(
        1, "share", "echo", "--visible-to", "bogus"
    )


def test_the_lists_of_the_site_are_kept_to_and_a_deny_wins(town: Town) -> None:
    said = town.eve.fails(4, "publish", examples.path("walk"))
    assert said == "error: you may not publish a servable: the site's [access] publish.allow does not name you\n"
    for user in (town.ada, town.eve):
        assert "[access] administer.allow does not name you" in user.fails(4, "down")
        assert "administer the log of broker" in user.fails(4, "logs", "broker")
    town.ops.ok("logs", "broker")
    town.ada.ok("share", "echo", "--visible-to", "user:eve", "--visible-to", "user:bob")
    assert names(town.eve) == (set(), set())
    assert "no endpoint 'secret'" in town.eve.fails(5, *town.call)
    assert "[1.0]" in town.bob.ok(*town.call)
    assert town.lines(name="eve", action="see", object="secret", by="access.call.deny user:eve", allowed=False)
    town.ada.ok("share", "echo", "--visible-to", "private")


def test_who_may_see_changes_on_a_running_session_at_once(town: Town) -> None:
    with town.client(town.bob) as client:
        for _ in range(2):
            with pytest.raises(UnknownEndpoint):
                client.infer("secret.echo", X)
            town.ada.ok("share", "echo", "--visible-to", "public")
            assert client.infer("secret.echo", X)["x"] == X
            town.ada.ok("share", "echo", "--visible-to", "private")
        with pytest.raises(PermissionDenied, match=r"\[access\] administer.allow does not name you"):
            client.call("down", Down(), GoingDown)
    until(lambda: [each["allowed"] for each in town.lines(name="bob", action="call")][-4:] == [False, True] * 2)


def test_a_line_says_who_asked_for_what_by_which_request_and_why_it_was_decided(town: Town) -> None:
    (line,) = town.lines(action="publish", object="echo", name="ada")[:1]
    key = load_or_create(town.ada.home / "client.key").public_z85
    assert {name: line[name] for name in ("allowed", "by", "key", "id", "token_sha256", "left_out")} == {
        "allowed": True,
        "by": "access.publish.allow user:ada",
        "key": key,
        "id": "",
        "token_sha256": "",
        "left_out": 0,
    }
    assert line["request"].isdigit()
    assert len(line["session"]) == 32
    assert town.audit.stat().st_mode & 0o777 == 0o600


def test_a_restart_forgets_nothing(town: Town) -> None:
    town.ada.ok(*town.call)
    (before,) = town.ada.status()["deployments"]
    log = before["replicas"][0]["replica"]
    (town.ops.record.parent / "logs" / f"{log}.log").write_text("of ada's model\n")
    town.ops.ok("down")
    town.ops.ok("up", "--detach")
    assert names(town.ada)[1] == {"secret"}
    assert "secret" not in names(town.bob)[1]
    assert town.ada.status()["deployments"][0]["owner"] == before["owner"] == "user:ada"
    until(lambda: town.ada.run(*town.call).returncode == 0, 60.0)
    assert town.bob.fails(5, "logs", log).startswith("error: no log of ")
    assert town.ada.ok("logs", log) == "of ada's model\n"
    assert "only its owner" in town.bob.fails(4, "publish", examples.path("echo"))
