"""docs/how-to/try-globus-on-a-laptop.md, as far as a person does it: a daemon at the stand-in, and a result travels."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from ssl import create_default_context
from typing import Any

import numpy as np
import pytest

from hpcserve import examples
from tests.acceptance.newcomer import User, until, user_in
from tests.acceptance.typist import Typist


class Laptop:
    """A stand-in that runs, and somebody whose daemon uses it."""

    def __init__(self, user: User, directory: Path) -> None:
        self.user, self.directory = user, directory
        self.stand_in: subprocess.Popen[str] | None = None
        self.site = directory / "site.toml"
        self.x = directory / "x.npy"
        np.save(self.x, np.ones(3, np.float32))
        self.results = directory / "collections" / "laptop" / "results"
        found = re.search(r"would be: (\S+)", self.site.read_text())
        assert found is not None
        self.call = ("run", "echo.echo", "--input", f"x={self.x}", "--to", f"globus://{found[1]}/~/results/")

    def order(self, name: str, values: dict[str, Any]) -> Any:
        url = f"{self.user.environment['GLOBUS_SDK_SERVICE_URL_AUTH']}stand-in/{name}"
        context = create_default_context(cafile=self.user.environment["GLOBUS_SDK_VERIFY_SSL"])
        with urllib.request.urlopen(url, json.dumps(values).encode(), timeout=60, context=context) as answer:
            return json.load(answer)

    def transfers(self) -> str:
        """What is said of them, whether there is an answer or not."""
        shown = self.user.run("transfers")
        return " ".join((shown.stdout + shown.stderr).decode().split())

    def types(self, *arguments: str | Path) -> None:
        with Typist(self.user, self.user.environment["GLOBUS_SDK_VERIFY_SSL"], *arguments) as typist:
            typist.logs_in().ends()


@contextlib.contextmanager
def started(user: User, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The stand-in of this directory, for the user's programs."""
    argv = [sys.executable, "-m", "hpcserve.testing.globus", str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(4):
            name, _, value = process.stdout.readline().removeprefix("export ").strip().partition("=")
            user.environment[name] = value
        yield process
        process.send_signal(signal.SIGINT)


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Laptop]:
    directory = tmp_path / "loopback-globus"
    with user_in(tmp_path / "home") as user, started(user, directory) as process:
        user.environment["HPCSERVE_SITE"] = str(directory / "site.toml")
        made = Laptop(user, directory)
        made.stand_in = process
        yield made


def test_the_page_leads_to_a_result_on_the_laptop_and_a_program_gets_one_too(laptop: Laptop) -> None:
    user = laptop.user
    checked = user.ok("site", "check")
    assert "ok       globus: Globus Auth takes the secret" in checked
    assert "warning" not in checked
    up = user.run("up", "--detach")
    assert (up.returncode, b"warning" in up.stderr) == (0, False), up
    laptop.types("login")
    user.ok("publish", examples.path("echo"))
    user.ok("deploy", "echo")
    laptop.types(*laptop.call)
    assert len(list(laptop.results.iterdir())) == 1

    program = laptop.order("clients", {"name": "nightly", "secret": "of-nightly"})
    settings = tomllib.loads(laptop.site.read_text())["globus"]
    laptop.order("groups", {"id": settings["groups"][0], "members": [program["username"]]})
    archive = laptop.order("collections", {"name": "archive", "owner": program["username"], "kind": "personal"})
    with user_in(user.home / "nightly") as nightly:
        credentials = {"HPCSERVE_CLIENT_ID": program["id"], "HPCSERVE_CLIENT_SECRET": "of-nightly"}
        nightly.environment = user.environment | credentials | {"HPCSERVE_HOME": str(nightly.home)}
        nightly.ok("service", "add", "lab", user.home / "sites" / "site" / "shared" / "service.json")
        nightly.ok("service", "use", "lab")
        nightly.ok(*laptop.call[:-1], f"globus://{archive['id']}/")
    assert len(list(Path(archive["root"]).iterdir())) == 1

    (laptop.directory / "client_secret").write_text("another\n")
    checked = user.run("site", "check").stdout.decode()
    assert "failed   globus: Globus Auth refuses the service's client" in checked
    user.ok("down")


def test_where_results_cannot_travel_it_is_said_before_any_is_computed(laptop: Laptop) -> None:
    user = laptop.user
    site = laptop.site.read_text().replace("directory = ", "# directory = ")
    laptop.site.write_text(site.replace('prefix = "', 'prefix = "/not/there'))
    told = user.ok("site", "check")
    assert "warning  staging: staging.collections: " in told
    assert "warning  staging: staging.directory: " in told
    assert b"warning: staging.directory: " in user.run("up", "--detach").stderr
    laptop.types("login")
    user.ok("publish", examples.path("echo"))
    user.ok("deploy", "echo")
    assert "this service brings no results to collections" in user.fails(7, *laptop.call)
    assert not list(Path(user.home).rglob("staged/*/*.h5")), "nothing was computed"
    user.ok("down")


def test_a_transfer_goes_on_when_the_stand_in_is_started_again(laptop: Laptop) -> None:
    user = laptop.user
    user.ok("up", "--detach")
    laptop.types("login")
    user.ok("publish", examples.path("echo"))
    user.ok("deploy", "echo")
    there = json.loads((laptop.directory / "ids.json").read_text())["laptop"]
    laptop.order("trouble", {"collection": there, "stalled": True})
    ca = user.environment["GLOBUS_SDK_VERIFY_SSL"]
    with Typist(user, ca, *laptop.call) as typist:
        typist.logs_in().says("is active").interrupts().ends(130)
    assert laptop.stand_in is not None
    laptop.stand_in.kill()
    laptop.stand_in.wait()
    until(lambda: "gives no answer" in laptop.transfers(), 60.0)
    with started(user, laptop.directory):
        laptop.types("login", "--force")  # as it has forgotten who was logged in
        until(lambda: "hpcserve transfers --login" in laptop.transfers(), 60.0)  # and what was consented to
        laptop.types("transfers", "--login", "--watch")
        assert len(list(laptop.results.iterdir())) == 1
        user.ok("down")
