"""Whether a result can arrive where it is to go: what is refused, what is not, and how often is looked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from hpcserve.core.delivery import End, Trouble
from hpcserve.daemon.controller import arrivals
from hpcserve.daemon.controller.arrivals import Arrivals
from hpcserve.daemon.controller.outside import Outside
from hpcserve.errors import HpcserveError, InvalidInput, LoginRequired, ServiceUnavailable
from hpcserve.staging.transfer import Carrier, GlobusTransfer, StepFailed

LAPTOP = "globus://5f2a1c1e-0000-4000-8000-000000000000"


class Seen(GlobusTransfer):
    """What Globus says of each place."""

    def __init__(self, says: Callable[[], str]) -> None:
        super().__init__("token", deadline_s=1.0)
        self._says = says
        self.looked: list[str] = []

    def found(self, end: End) -> str:
        """What ``says`` does, which is noted."""
        self.looked.append(end.path)
        return self._says()


async def token(_owner: str) -> str:
    return "token"


def watched(
    says: Callable[[], str] = lambda: "dir", *, by: Callable[[str], Awaitable[str]] = token
) -> tuple[Arrivals, list[str]]:
    """Arrivals, and at which places they have looked."""
    seen = Seen(says)

    def carrier(_token: str) -> Carrier:
        return seen

    return Arrivals(by, Outside(), carrier), seen.looked


def test_a_place_that_was_good_is_looked_at_once_for_each_owner() -> None:
    async def scenario() -> None:
        watching, looked = watched()
        for owner in ("ada", "ada", "bob"):
            await watching.check(owner, f"{LAPTOP}/in/")
        assert looked == ["/in/", "/in/"]

    asyncio.run(scenario())


def test_a_place_that_was_good_long_ago_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "GOOD_S", 0.0)

    async def scenario() -> None:
        watching, looked = watched()
        for _ in range(2):
            await watching.check("ada", f"{LAPTOP}/in/")
        assert len(looked) == 2

    asyncio.run(scenario())


def test_no_more_than_so_many_places_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MOST_PLACES", 2)

    async def scenario() -> None:
        watching, looked = watched()
        for place in "abca":
            await watching.check("ada", f"{LAPTOP}/{place}/")
        assert looked == ["/a/", "/b/", "/c/", "/a/"]

    asyncio.run(scenario())


def test_what_is_not_good_is_looked_at_each_time() -> None:
    async def scenario() -> None:
        watching, looked = watched()
        for _ in range(2):
            with pytest.raises(InvalidInput, match="a directory is there"):
                await watching.check("ada", f"{LAPTOP}/in")
        assert len(looked) == 2

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["again", "login"])
def test_what_globus_may_say_otherwise_later_is_no_reason_to_refuse(kind: str) -> None:
    def says() -> str:
        raise StepFailed(Trouble(kind, "no answer"))  # type: ignore[arg-type]  # each of the kinds

    async def scenario() -> None:
        watching, looked = watched(says)
        for _ in range(2):
            await watching.check("ada", f"{LAPTOP}/in/")
        assert len(looked) == 2, "nobody knows yet whether it is good"

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [LoginRequired("nobody is in"), ServiceUnavailable("Auth is away")])
def test_that_there_is_no_token_is_no_reason_to_refuse(error: HpcserveError) -> None:
    async def refused(_owner: str) -> str:
        raise error

    async def scenario() -> None:
        watching, looked = watched(by=refused)
        await watching.check("ada", f"{LAPTOP}/in/")
        assert not looked

    asyncio.run(scenario())


def test_a_globus_that_is_slow_is_no_reason_to_refuse_or_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "LOOK_S", 0.05)
    answers = threading.Event()

    def says() -> str:
        assert answers.wait(60.0)
        return "file"

    async def scenario() -> None:
        watching, looked = watched(says)
        try:
            async with asyncio.timeout(30.0):
                await watching.check("ada", f"{LAPTOP}/in/")
        finally:
            answers.set()
        assert len(looked) == 1

    asyncio.run(scenario())
