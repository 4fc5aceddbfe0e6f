"""Large results onto a laptop by Globus: the command line, a real daemon, and the loopback stand-in over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcserve import AsyncClient, Client, examples
from hpcserve.client.services import Service
from hpcserve.testing.globus.collections import Collection, Kind
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Dependent
from tests.acceptance.newcomer import User, until, user_in
from tests.acceptance.typist import Typist
from tests.integration.globus.setting import SECRET, Setting, standing_in

SITE = """
base = "local"
auth = "globus"

[globus]
client_id = "{service}"
client_secret_file = "{secret}"
native_client_id = "{native}"

[staging]
transfer_wait_s = 0.2

[[staging.collections]]
id = "{collection}"
prefix = "{staged}"
kind = "mapped"

[access]
call = {{ allow = ["*"] }}
publish = {{ allow = ["*"] }}
deploy = {{ allow = ["*"] }}
administer = {{ allow = ["*"] }}
"""
X = np.random.default_rng(7).random(100_000, np.float32)


class Lab:
    """A service whose results lie on a collection, Ada who uses it, and her laptop."""

    def __init__(self, globus: Setting, ada: User, facility: Collection, laptop: Collection, x: Path) -> None:
        self.globus, self.ada, self.facility, self.laptop = globus, ada, facility, laptop
        self.call = ("run", "echo.echo", "--input", f"x={x}", "--to", f"globus://{laptop.id}/results/")

    def login(self) -> None:
        """Ada logs in, and consents to all that the service asks for."""
        with Typist(self.ada, self.globus.ca, "login") as typist:
            typist.logs_in().ends()

    def transfers(self) -> list[dict[str, object]]:
        """What she sees of them."""
        shown: dict[str, list[dict[str, object]]] = json.loads(self.ada.ok("transfers", "--json"))
        return shown["transfers"]

    def arrived(self) -> list[Path]:
        """The files on the laptop."""
        return sorted((self.laptop.root / "results").glob("*.h5"))

    def tasks(self) -> int:
        """How many transfer tasks Globus has seen of her."""
        return len(self.globus.globus.transfer.queue.of(self.globus.person.id))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        globus = stack.enter_context(standing_in(tmp_path / "globus"))
        queue = globus.globus.transfer.queue
        queue.retry_s = 0.05
        ada = stack.enter_context(user_in(tmp_path / "ada"))
        ada.environment |= globus.globus.environment
        staged = tmp_path / "staged"
        staged.mkdir(mode=0o700)
        open_ = globus.globus.collections.open
        facility = open_("facility", globus.person.id, Kind.MAPPED, root=staged)
        laptop = open_("laptop", globus.person.id, Kind.PERSONAL)
        needs = (Dependent(GROUPS_VIEW), Dependent(TRANSFER_ALL, optional=True))
        globus.world.add_scope(globus.service.id, dependents=needs)
        secret = tmp_path / "secret"
        secret.touch(0o600)
        secret.write_text(SECRET)
        (ada.home / "sites").mkdir(mode=0o700, parents=True)
        ada.home.chmod(0o700)
        site = SITE.format(
            service=globus.service.id,
            secret=secret,
            native=globus.native.id,
            collection=facility.id,
            staged=staged,
        )
        site = site.replace("[staging]\n", f'[staging]\ndirectory = "{staged}"\n')
        (ada.home / "sites" / "local.toml").write_text(site)
        np.save(tmp_path / "x.npy", X)
        made = Lab(globus, ada, facility, laptop, tmp_path / "x.npy")
        ada.ok("up", "--detach")
        made.login()
        ada.ok("publish", examples.path("echo"))
        ada.ok("deploy", "echo", "--endpoint", "echo")
        yield made
        ada.ok("down")


async def both_clients(lab: Lab) -> None:
    """The same from Python."""
    to = f"globus://{lab.laptop.id}/results/"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HPCSERVE_HOME", *lab.globus.globus.environment):
            patch.setenv(name, lab.ada.environment[name])
        with Client(Service(lab.ada.record)) as client:
            future = client.submit("echo.echo", X, to=to)
            sent = (await asyncio.to_thread(future.result, 90.0)).sent
            assert sent is not None
            assert future.transfer == sent.transfer
        async with AsyncClient(Service(lab.ada.record)) as other:
            async with asyncio.timeout(90.0):
                assert (await other.infer("echo.echo", X, to=to)).sent is not None


def test_a_result_reaches_the_laptop_after_the_consents_that_it_needs(lab: Lab) -> None:
    with Typist(lab.ada, lab.globus.ca, *lab.call) as typist:
        told = json.loads(typist.logs_in().ends())
    [path] = lab.arrived()
    assert told == {"sent": f"globus://{lab.laptop.id}/results/{path.name}"}
    assert f"transfer {lab.transfers()[0]['id']} to {told['sent']} is succeeded" in typist.seen
    with h5py.File(path) as file:
        assert np.array_equal(file["x"][()], X)
    # Now that she has consented, nobody is asked any more, and Globus may be busy.
    for pattern in ("GET /v0.10/submission_id", "POST /v0.10/transfer", "GET /v0.10/task/", "POST /v2/oauth2/token"):
        lab.globus.globus.faults.add(pattern, 503, times=2)
    lab.ada.ok(*lab.call)
    assert [each["state"] for each in lab.transfers()] == ["succeeded"] * 2
    assert lab.ada.ok("transfers").count("succeeded") == 2
    asyncio.run(both_clients(lab))
    assert len(lab.arrived()) == 4


def test_a_delivery_outlives_its_client_and_the_controller(lab: Lab) -> None:
    lab.laptop.trouble.offline = True
    with Typist(lab.ada, lab.globus.ca, *lab.call) as typist:
        typist.logs_in()
        until(lambda: any(each["task"] for each in lab.transfers()), 90.0)
        typist.process.send_signal(signal.SIGKILL)
        typist.process.wait()
    until(lambda: "GC_NOT_CONNECTED" in str(lab.transfers()[0]["why"]), 90.0)
    before = lab.ada.status()["processes"]["controller"]
    os.kill(before, signal.SIGKILL)
    until(lambda: lab.ada.run("status", "--json").returncode == 0, 90.0)
    until(lambda: lab.ada.status()["processes"]["controller"] != before, 90.0)
    lab.laptop.trouble.offline = False
    until(lambda: lab.transfers()[0]["state"] == "succeeded", 90.0)
    assert len(lab.arrived()) == lab.tasks() == 1


def test_without_a_terminal_the_login_that_is_needed_is_told_and_made_later(lab: Lab) -> None:
    refused = lab.ada.fails(4, *lab.call)
    assert "hpcserve transfers --login" in refused
    with Typist(lab.ada, lab.globus.ca, "transfers", "--login", "--watch") as typist:
        typist.logs_in().ends()
    assert len(lab.arrived()) == 1
    gone = lab.transfers()[0]["id"]
    assert "has succeeded already" in lab.ada.fails(1, "transfers", "--cancel", str(gone))
