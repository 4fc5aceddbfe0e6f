"""A service with ``auth = "globus"`` of one operator, the loopback stand-in over TLS, and people who come to it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hpcserve import Client
from hpcserve.client.services import Service
from hpcserve.testing.globus.records import Person, Token
from tests.acceptance.globussite import write_site
from tests.acceptance.newcomer import User, user_in
from tests.acceptance.typist import Typist
from tests.integration.globus.setting import Setting, standing_in

CACHE_S = 2
X = np.ones(1, np.float32)


class House:
    """A service with an endpoint ``echo``, a stand-in, and people who come to it."""

    def __init__(self, place: Path, globus: Setting, ops: User, homes: contextlib.ExitStack) -> None:
        self.globus, self.ops, self._homes, self._place = globus, ops, homes, place
        self.x = place / "x.npy"
        np.save(self.x, X)
        self.call = ("run", "echo.echo", "--input", f"x={self.x}")
        self._many = 0
        self._people: dict[Path, Person] = {}
        """Whoever has a home: others would be logged out with them."""

    def user(self, **environment: str) -> User:
        """Somebody new, who has named the service."""
        self._many += 1
        user = self._homes.enter_context(user_in(self._place / f"user{self._many}"))
        user.environment |= self.globus.globus.environment | environment
        user.ok("service", "add", "lab", self.ops.record)
        user.ok("service", "use", "lab")
        return user

    def person(self, user: User) -> Person:
        """Whose home it is."""
        name = f"{user.home.name}@lab.example"
        return self._people.setdefault(user.home, self.globus.world.find_person(name) or self._new(name))

    def _new(self, name: str) -> Person:
        return self.globus.world.add_person(name, second_factor=True)

    def types(self, user: User, *arguments: str | Path) -> Typist:
        """They sit at their terminal, and at the browser."""
        self.globus.world.sign_in(self.person(user))
        return Typist(user, self.globus.ca, *arguments)

    def logged_in(self, *options: str) -> User:
        user = self.user()
        with self.types(user, "login", *options) as typist:
            typist.logs_in().ends()
        return user

    @contextlib.contextmanager
    def client(self, user: User) -> Iterator[Client]:
        """A client in this process, with a person's files."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HPCSERVE_HOME", str(user.home))
            with Client(Service(self.ops.record)) as client:
                yield client

    def tokens(self, user: User) -> list[Token]:
        """The tokens that somebody keeps, as the stand-in knows them."""
        (path,) = (user.home / "logins").glob("*.json")
        kept = json.loads(path.read_text())
        values = [kept["access_token"], kept.get("refresh_token", ""), *kept.get("others", ())]
        return [self.globus.world.tokens[each] for each in values if each]


@contextlib.contextmanager
def house_in(
    place: Path, more: Callable[[Setting], str] = lambda _: "", *, administer: str = "*", cache_s: int = CACHE_S
) -> Iterator[House]:
    """Such a house, whose operator has logged in.

    ``more``: what else stands in the site file. ``administer``: who may. ``cache_s``: how long answers of Auth count.
    """
    with contextlib.ExitStack() as homes:
        globus = homes.enter_context(standing_in(place / "globus"))
        ops = homes.enter_context(user_in(place / "ops"))
        ops.environment |= globus.globus.environment
        write_site(ops, globus, globus=f"cache_s = {cache_s}\n", administer=administer, more=more(globus))
        ops.ok("up", "--detach")
        made = House(place, globus, ops, homes)
        with made.types(ops, "login") as typist:
            typist.logs_in().ends()
        yield made
        ops.ok("down")
