"""What several results want of their owner at once is asked for once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import pytest

from hpcserve import AsyncClient, Client
from hpcserve.client import consents, submitting
from hpcserve.client.arguments import FOREVER
from hpcserve.client.consents import Consents
from hpcserve.client.sending import Ask, Journey, Transfer
from hpcserve.client.services import Service
from hpcserve.client.submitting import Agrees
from hpcserve.errors import AuthenticationError, Cancelled, HpcserveError, InvalidInput, LoginRequired
from hpcserve.wire.admin import Deliver, TransferList, TransferView

WANTED = LoginRequired("it waits for a login", detail={"client_id": "c"})


def journey(state: str = "prepared", waits_since: float = FOREVER) -> Journey:
    """As it was seen last."""
    made = Journey(Deliver(paths=("/staged/r.h5",), to="globus://c/d/"), cast("Any", None), lambda _: None)
    made.last, made.waits_since = Transfer("t", "globus://c/d/r.h5", state), waits_since
    return made


class Daemon:
    """What the service is asked, and in which state it says that the transfer is."""

    def __init__(self) -> None:
        self.state = "prepared"
        self.asked: list[str] = []

    def __call__(self, verb: str, _arguments: object, _answer: object) -> Any:
        self.asked.append(verb)
        view = TransferView(
            id="t", owner="o", path="/staged/r.h5", to="globus://c/d/r.h5", state=self.state, size_bytes=1, asked_s=0.0
        )
        return TransferList(transfers=(view,))


@pytest.fixture
def service() -> Daemon:
    return Daemon()


@pytest.fixture
def made(service: Daemon) -> Consents:
    agrees = cast("Agrees", lambda *_, **__: True)
    return Consents(cast("Ask", service), Service(Path("record.json")), asks=None, agrees=agrees)


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What each login does, in turn."""
    todo: list[Callable[[], None]] = []
    monkeypatch.setattr(consents, "log_in_for", lambda *_: todo.pop(0)())
    return todo


def refused() -> None:
    raise AuthenticationError("no")


def test_a_login_does_for_all_that_had_waited_for_it(made: Consents, logins: list[Callable[[], None]]) -> None:
    logins += [lambda: None, lambda: None]
    before = time.monotonic()
    made.see_to(WANTED, journey(waits_since=before))
    made.see_to(WANTED, journey(waits_since=before))
    assert len(logins) == 1
    made.see_to(WANTED, journey(waits_since=time.monotonic()))
    assert logins == [], "it does not do for what is wanted after it"


def test_a_login_that_fails_fails_for_all_that_had_waited_for_it(
    made: Consents, logins: list[Callable[[], None]]
) -> None:
    logins += [refused, lambda: None]
    before = time.monotonic()
    for _ in range(2):
        with pytest.raises(AuthenticationError, match="no"):
            made.see_to(WANTED, journey(waits_since=before))
    after = time.monotonic()
    made.see_to(WANTED, journey(waits_since=after))
    made.see_to(WANTED, journey(waits_since=after))
    assert logins == []


def test_a_client_that_is_closed_sees_to_nothing(made: Consents, logins: list[Callable[[], None]]) -> None:
    logins.append(lambda: None)
    made.stop()
    for state in ("prepared", "offered"):
        with pytest.raises(Cancelled, match="closed"):
            made.see_to(WANTED, journey(state))
    assert len(logins) == 1


def test_a_failure_is_told_of_no_other_login_and_is_each_ones_own(
    made: Consents, logins: list[Callable[[], None]]
) -> None:
    logins += [refused, lambda: None]
    before, errors = time.monotonic(), list[BaseException]()
    for _ in range(2):
        with pytest.raises(AuthenticationError) as caught:
            made.see_to(WANTED, journey(waits_since=before))
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    made.see_to(LoginRequired("another", detail={"client_id": "d"}), journey(waits_since=before))
    assert logins == []


def test_what_asks_raises_is_told_as_such_and_is_no_login(made: Consents, logins: list[Callable[[], None]]) -> None:
    def breaks() -> None:
        raise ZeroDivisionError("of the caller's")

    logins += [breaks, lambda: None]
    before = time.monotonic()
    with pytest.raises(HpcserveError, match=r"transfer t waits.*ZeroDivisionError"):
        made.see_to(WANTED, journey(waits_since=before))
    made.see_to(WANTED, journey(waits_since=before))
    assert logins == []


@pytest.mark.parametrize(("state", "asked"), [("prepared", ["transfers", "deliver"]), ("cancelled", ["transfers"])])
def test_what_was_cancelled_while_somebody_logged_in_is_not_begun_anew(
    made: Consents, service: Daemon, logins: list[Callable[[], None]], state: str, asked: list[str]
) -> None:
    logins.append(lambda: None)
    service.state = state
    made.see_to(WANTED, journey())
    assert service.asked == asked


def test_what_was_never_seen_is_not_seen_to(made: Consents, logins: list[Callable[[], None]]) -> None:
    unseen = journey()
    unseen.last = None
    with pytest.raises(LoginRequired):
        made.see_to(WANTED, unseen)
    assert logins == []


class Submitting:
    """In place of what submits: waits until it is let go on."""

    def __init__(self) -> None:
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.submitted: list[tuple[str, str | None]] = []
        self.logged_out = 0

    def __call__(self, *_: object) -> Submitting:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.logged_out += 1

    def submit(self, id: str, to: str | None) -> None:
        self.begun.set()
        assert self.goes_on.wait(60.0)
        self.submitted.append((id, to))


def test_the_login_of_a_client_that_is_closed_meanwhile_ends_all_the_same(
    made: Consents, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Submitting()
    monkeypatch.setattr(submitting, "Submitter", own)
    failed: list[HpcserveError] = []

    def submit() -> None:
        try:
            made.see_to(WANTED, journey("offered"))
        except HpcserveError as error:
            failed.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    assert own.begun.wait(60.0)
    made.close()
    assert own.logged_out == 0, "it is needed"
    own.goes_on.set()
    thread.join(60.0)
    assert (own.submitted, own.logged_out, failed) == ([("t", "globus://c/d/")], 1, [])
    made.close()
    assert own.logged_out == 1


def test_a_forked_child_ends_no_login_of_its_parent(made: Consents, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Submitting()
    own.goes_on.set()
    monkeypatch.setattr(submitting, "Submitter", own)
    made.see_to(WANTED, journey("offered"))
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        made.close()
    assert own.logged_out == 0
    made.close()
    assert own.logged_out == 1


@pytest.mark.parametrize("answer", ["no", 1, None])
def test_nothing_but_true_is_a_yes_and_a_no_is_one_to_all_that_waited(service: Daemon, answer: object) -> None:
    asked: list[str] = []

    def agrees(told: str, *, is_named: bool) -> Any:
        asked.append(told if is_named else "")
        return answer

    consents_ = Consents(cast("Ask", service), Service(Path("record.json")), asks=None, agrees=agrees)
    consents_._since = time.monotonic()
    assert not consents_._agreed("all of it", is_named=True)
    assert not consents_._agreed("all of it", is_named=True)
    assert asked == ["all of it"]
    consents_._since = time.monotonic()
    assert not consents_._agreed("all of it", is_named=True)
    assert len(asked) == 2, "who begins to wait after it is asked anew"


async def coroutine(told: str, *, is_named: bool) -> bool:
    return bool(told) and is_named


@pytest.mark.parametrize("agrees", [True, coroutine])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_cannot_be_asked_is_refused_at_once(kind: Any, agrees: object) -> None:
    with pytest.raises(InvalidInput, match="agrees is"):
        kind(agrees=agrees)
