"""What several results want of their owner at once is asked for once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Self, cast

import pytest

from hpcserve.client import consents, submitting
from hpcserve.client.arguments import FOREVER
from hpcserve.client.consents import Consents
from hpcserve.client.sending import Ask, Journey, Transfer
from hpcserve.client.services import Service
from hpcserve.client.submitting import Agrees
from hpcserve.errors import AuthenticationError, HpcserveError, LoginRequired
from hpcserve.wire.admin import Deliver

WANTED = LoginRequired("it waits for a login", detail={"client_id": "c"})


def journey(state: str = "prepared", waits_since: float = FOREVER) -> Journey:
    """As it was seen last."""
    made = Journey(Deliver(paths=("/staged/r.h5",), to="globus://c/d/"), cast("Any", None), lambda _: None)
    made.last, made.waits_since = Transfer("t", "globus://c/d/r.h5", state), waits_since
    return made


@pytest.fixture
def made() -> Consents:
    return Consents(cast("Ask", None), Service(cast("Any", None)), None, cast("Agrees", lambda *_, **__: True))


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
    made.close()
    with pytest.raises(LoginRequired):
        made.see_to(WANTED, journey())
    assert len(logins) == 1


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
