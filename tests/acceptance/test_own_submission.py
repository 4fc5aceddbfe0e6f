"""Results onto a collection of high assurance, which takes no service's tokens: the command line submits them itself.

A real daemon, real terminals and the loopback stand-in over TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client.services import Service
from hpcserve.errors import LoginRequired, PermissionDenied
from hpcserve.testing.globus.records import TRANSFER_ALL
from tests.acceptance.lab import Lab, Person, X, as_ada, lab_in
from tests.acceptance.newcomer import until, user_in
from tests.acceptance.typist import Typist

PATIENCE_S = 90.0
SUBMIT = "POST /v0.10/transfer"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with lab_in(tmp_path) as made:
        made.laptop.domain = "lab.example"
        yield made


def states(lab: Lab) -> list[object]:
    return [each["state"] for each in lab.transfers()]


@contextlib.contextmanager
def at_the_last_prompt(lab: Lab) -> Iterator[Typist]:
    """Ada at the prompt of the login with which a transfer is submitted, to which nobody without a terminal comes."""
    said = lab.ada.fails(4, *lab.call)
    assert said.count("that takes a terminal") == 1, said
    with Typist(lab.ada, lab.globus.ca, "transfers", "--login", "--watch") as typist:
        typist.patience_s = PATIENCE_S
        yield typist.logs_in_until_asked().says("Globus takes this transfer from you alone").agrees()


def test_who_sits_at_a_terminal_submits_what_the_service_may_not(lab: Lab) -> None:
    with Typist(lab.ada, lab.globus.ca, *lab.call) as typist:
        # To transfer at all; with an identity of that domain, in vain (unless the service was refused with that consent
        # before it was told of the first login); and to submit it herself.
        told = json.loads(typist.logs_in_until_asked().agrees().logs_in().ends())
    [path] = lab.arrived()
    assert told == {"sent": f"globus://{lab.laptop.id}/results/{path.name}"}
    assert f"to {told['sent']}" in typist.seen
    assert typist.seen.count("and the service none") == 1
    with h5py.File(path) as file:
        assert np.array_equal(file["x"][()], X)
    # Now that it is known, nobody is asked for a login in vain.
    said = lab.ada.fails(4, *lab.call)
    assert "waits for you to submit it yourself" in said
    assert "submit it yourself: hpcserve transfers --login" in " ".join(lab.ada.ok("transfers").split())
    with Typist(lab.ada, lab.globus.ca, "transfers", "--login") as typist:
        typist.agrees("n").ends(4)
    assert "nobody agreed" in typist.seen
    with Typist(lab.ada, lab.globus.ca, "transfers", "--login", "--watch") as typist:
        typist.agrees().logs_in().ends()
    assert (states(lab), lab.tasks(), len(lab.arrived())) == (["succeeded"] * 2, 2, 2)
    own = {each.client_id for each in lab.globus.world.tokens.values() if TRANSFER_ALL in each.scopes}
    assert own == {lab.globus.service.id, lab.globus.native.id}


def test_a_controller_that_is_killed_meanwhile_follows_what_was_submitted(lab: Lab) -> None:
    with at_the_last_prompt(lab) as typist:
        before = lab.ada.status()["processes"]["controller"]
        os.kill(before, signal.SIGSTOP)
        typist.logs_in().says("nothing is heard of the daemon")
        os.kill(before, signal.SIGKILL)
        typist.ends()
    assert lab.ada.status()["processes"]["controller"] != before
    assert (states(lab), lab.tasks(), len(lab.arrived())) == (["succeeded"], 1, 1)


def test_who_is_killed_while_it_submits_leaves_one_task_that_arrives(lab: Lab) -> None:
    faults = lab.globus.globus.faults
    with at_the_last_prompt(lab) as typist:
        asked = faults.asked[SUBMIT]
        faults.stall(SUBMIT, 2.0)
        typist.logs_in()
        until(lambda: faults.asked[SUBMIT] > asked, PATIENCE_S)
        typist.process.kill()
        until(lambda: states(lab) == ["succeeded"], PATIENCE_S)
    assert lab.tasks() == len(lab.arrived()) == 1


def test_a_program_submits_by_its_secret_what_the_service_may_not(lab: Lab) -> None:
    program = lab.globus.world.add_client("nightly", secret="of-nightly")
    own = lab.globus.world.people[program.id]
    lab.laptop.domain, lab.laptop.owner = own.domain, own.id
    with user_in(lab.ada.home / "nightly") as nightly:
        credentials = {"HPCSERVE_CLIENT_ID": program.id, "HPCSERVE_CLIENT_SECRET": "of-nightly"}
        nightly.environment |= lab.globus.globus.environment | credentials
        nightly.ok("service", "add", "lab", lab.ada.record)
        nightly.ok("service", "use", "lab")
        # Transfer wants a session of the service, which no program has: it logs in anew, and is offered it after that.
        sent = json.loads(nightly.ok(*lab.call, "--yes"))["sent"]
        assert [Path(sent).name] == [each.name for each in lab.arrived()]
        # Without a yes nothing is submitted: not by the call, nor for another place.
        said = nightly.fails(4, *lab.call)
        nightly.fails(4, "transfers", "--login")
        nightly.fails(2, "transfers", "--login", "--yes")
        elsewhere = f"globus://{lab.laptop.id}/"
        assert "no --to names" in nightly.fails(4, "transfers", "--login", "--yes", "--to", elsewhere)
        assert len(lab.arrived()) == 1
        told = re.search(r"in a program: hpcserve (transfers --login --yes --to \S+);", said)
        assert told is not None, said
        nightly.ok(*told[1].split(), "--watch")
        shown = json.loads(nightly.ok("transfers", "--json"))["transfers"]
    assert [each["state"] for each in shown] == ["succeeded"] * 2


class Agreement:
    """Says yes, but for the first of so many, and keeps what it was told."""

    def __init__(self, refusals: int = 0) -> None:
        self.told: list[tuple[str, bool]] = []
        self._refusals = refusals

    def __call__(self, told: str, *, is_named: bool) -> bool:
        self.told.append((told, is_named))
        return len(self.told) > self._refusals


def both_clients(lab: Lab, asks: Person, agrees: Agreement) -> None:
    """Several results at once, and one: all of them arrive."""
    to = f"globus://{lab.laptop.id}/results/"

    async def other() -> None:
        async with AsyncClient(Service(lab.ada.record), asks=asks, agrees=agrees) as client:
            async with asyncio.timeout(PATIENCE_S):
                sent = await asyncio.gather(*(client.infer("echo.echo", X, to=to) for _ in range(3)))
        assert all(each.sent is not None for each in sent)

    with Client(Service(lab.ada.record), asks=asks, agrees=agrees) as client:
        futures = [client.submit("echo.echo", X, to=to) for _ in range(3)]
        assert all(future.result(PATIENCE_S).sent is not None for future in futures)
        assert client.infer("echo.echo", X, to=to).sent is not None
    asyncio.run(other())


def own_logins(lab: Lab) -> set[bool]:
    """Whether those with which transfers were submitted are still good."""
    held = [each for each in lab.globus.world.tokens.values() if TRANSFER_ALL in each.scopes]
    return {each.active for each in held if each.client_id == lab.globus.native.id}


def test_a_client_in_python_submits_what_the_service_may_not(lab: Lab) -> None:
    asks, agrees = Person(lab.globus.ca), Agreement()
    with as_ada(lab):
        both_clients(lab, asks, agrees)
    assert len(lab.arrived()) == 7
    assert set(states(lab)) == {"succeeded"}
    assert all(is_named and "Globus takes this transfer from you alone" in told for told, is_named in agrees.told)
    assert all(any(path.name in told for told, _ in agrees.told) for path in lab.arrived()), "each was agreed to"
    # To transfer at all, with an identity of that domain, and to submit: by one login for all results of a client.
    assert 2 <= len(asks.asked) <= 4
    assert own_logins(lab) == {False}, "closed clients leave none"


def test_a_program_in_python_needs_no_command(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    program = lab.globus.world.add_client("nightly", secret="of-nightly")
    own = lab.globus.world.people[program.id]
    lab.laptop.domain, lab.laptop.owner = own.domain, own.id
    to = f"globus://{lab.laptop.id}/results/"
    with user_in(lab.ada.home / "nightly") as nightly, as_ada(lab):
        monkeypatch.setenv("HPCSERVE_HOME", nightly.environment["HPCSERVE_HOME"])
        monkeypatch.setenv("HPCSERVE_CLIENT_ID", program.id)
        monkeypatch.setenv("HPCSERVE_CLIENT_SECRET", "of-nightly")
        with Client(Service(lab.ada.record), agrees=Agreement(refusals=1)) as client:
            future = client.submit("echo.echo", X, to=to)
            with pytest.raises(PermissionDenied, match="nobody agreed to it"):
                future.result(PATIENCE_S)
            assert lab.arrived() == []
            assert future.transfer is not None
            assert future.transfer.state == "offered"
            assert future.go_on().sent is not None
            assert client.infer("echo.echo", X, to=to).sent is not None
        with Client(Service(lab.ada.record)) as client, pytest.raises(LoginRequired, match="submit it yourself"):
            client.infer("echo.echo", X, to=to)
