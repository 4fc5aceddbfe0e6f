"""A service whose results lie on a collection, Ada at a terminal who uses it, and her laptop: of real processes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import examples
from hpcserve.testing.globus.browser import log_in
from hpcserve.testing.globus.collections import Collection, Kind
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Dependent
from tests.acceptance.globussite import write_site
from tests.acceptance.newcomer import User, user_in
from tests.acceptance.typist import Typist
from tests.integration.globus.setting import Setting, standing_in

MORE = """
[pilots]
slots = 2

[mpi]
command = "{mpiexec}"

[staging]
directory = "{staged}"
transfer_wait_s = 0.2
transfers_per_user = 5
inline_limit_bytes = 1000
https_limit_bytes = 500000

[[staging.collections]]
id = "{collection}"
prefix = "{staged}"
kind = "mapped"
https = true
"""
X = np.random.default_rng(7).random(100_000, np.float32)


class Lab:
    """A service whose results lie on a collection, Ada who uses it, and her laptop."""

    def __init__(self, globus: Setting, ada: User, facility: Collection, laptop: Collection, x: Path) -> None:
        self.globus, self.ada, self.facility, self.laptop = globus, ada, facility, laptop
        self.x = x
        self.run = ("run", "echo.echo", "--input", f"x={x}")
        self.call = (*self.run, "--to", f"globus://{laptop.id}/results/")

    def from_afar(self) -> Path:
        """A service record as on a machine that does not see the site's files."""
        record = json.loads(Path(self.ada.record).read_bytes())
        path = self.ada.home / "from-afar.json"
        path.write_text(json.dumps(record | {"staging": "/not/seen/here"}))
        return path

    def login(self) -> None:
        """Ada logs in, and consents to all that the service asks for."""
        with Typist(self.ada, self.globus.ca, "login") as typist:
            typist.logs_in().ends()

    def login_for_transfers(self) -> None:
        """Ada logs in as a transfer needs it."""
        with Typist(self.ada, self.globus.ca, "transfers", "--login") as typist:
            typist.logs_in().ends()

    def transfers(self) -> list[dict[str, object]]:
        """What she sees of them."""
        shown: dict[str, list[dict[str, object]]] = json.loads(self.ada.ok("transfers", "--json"))
        return shown["transfers"]

    def arrived(self) -> list[Path]:
        """The files on the laptop."""
        return sorted((self.laptop.root / "results").glob("*.h5"))

    def kept_logins(self) -> int:
        """How many refresh tokens of hers the service has that are good."""
        service = self.globus.service.id
        return sum(
            each.refresh and each.active and each.client_id == service for each in self.globus.world.tokens.values()
        )

    def tasks(self) -> int:
        """How many transfer tasks Globus has seen of her."""
        return len(self.globus.globus.transfer.queue.of(self.globus.person.id))


class Person:
    """A person who logs in wherever a client asks for it."""

    def __init__(self, ca: str) -> None:
        self._ca = ca
        self.asked: list[str] = []

    def code(self, address: str, why: str, scope: str) -> str:
        self.asked.append(why)
        return log_in(address, self._ca)

    def interrupt(self) -> None:
        """Nothing waits."""


@contextlib.contextmanager
def lab_in(tmp_path: Path) -> Iterator[Lab]:
    """All of it, with the servable ``echo``."""
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
        further = (TRANSFER_ALL, facility.https_scope)
        needs = (Dependent(GROUPS_VIEW), *(Dependent(each, optional=True) for each in further))
        globus.world.add_scope(globus.service.id, dependents=needs)
        mpiexec = Path(sys.executable).with_name("mpiexec")
        write_site(ada, globus, more=MORE.format(collection=facility.id, staged=staged, mpiexec=mpiexec))
        np.save(tmp_path / "x.npy", X)
        made = Lab(globus, ada, facility, laptop, tmp_path / "x.npy")
        ada.ok("up", "--detach")
        made.login()
        ada.ok("publish", examples.path("echo"))
        ada.ok("deploy", "echo", "--endpoint", "echo")
        yield made
        ada.ok("down")


@contextlib.contextmanager
def as_ada(lab: Lab) -> Iterator[None]:
    """This process is hers."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HPCSERVE_HOME", *lab.globus.globus.environment):
            patch.setenv(name, lab.ada.environment[name])
        yield
