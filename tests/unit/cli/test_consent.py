"""``hpcserve transfers --login``: what is offered is submitted, all of it, whatever becomes of each."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
import typer

from hpcserve.cli.asking import Terminal
from hpcserve.cli.consent import _waits, agreement, at_a_terminal, log_in_for_all, submit_each
from hpcserve.client import Client
from hpcserve.client.submitting import Submitter
from hpcserve.errors import Conflict, HpcserveError, LoginRequired, PermissionDenied, TransferFailed
from hpcserve.wire.admin import TransferList, TransferView


class Outcomes:
    """What comes of each transfer; stands in for a Submitter, whose own tests are tests/integration/globus."""

    def __init__(self, **outcomes: HpcserveError) -> None:
        self._outcomes = outcomes
        self.tried: list[tuple[str, str | None]] = []

    def submit(self, id: str, to: str | None) -> None:
        self.tried.append((id, to))
        if id in self._outcomes:
            raise self._outcomes[id]


VAULT = "6c54cade-bde5-45c1-bdea-f4bd71dba2cc"


def offered(id: str, to: str = "/in/r.h5") -> TransferView:
    return TransferView(
        id=id,
        owner="ada",
        path="/staged/r.h5",
        to=f"globus://{VAULT}{to}",
        state="offered",
        size_bytes=1,
        asked_s=0.0,
    )


class Person:
    """Whoever is at the terminal; stands in for a Terminal, whose own tests need a pseudo-terminal."""

    def __init__(self, *, says: bool) -> None:
        self._says = says
        self.asked: list[str] = []

    def agrees(self, question: str) -> bool:
        self.asked.append(question)
        return self._says


@pytest.mark.parametrize("yes", [True, False])
@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("says", [True, False, None])
def test_nothing_is_submitted_but_with_a_yes(
    capsys: pytest.CaptureFixture[str], *, yes: bool, is_named: bool, says: bool | None
) -> None:
    person = None if says is None else Person(says=says)
    agrees = agreement(cast("Terminal | None", person), yes=yes)
    beforehand = yes and is_named
    assert agrees("all of it", is_named=is_named) is (beforehand or says is True)
    assert capsys.readouterr().err == "all of it\n", "it is shown in any case"
    assert person is None or person.asked == ([] if beforehand else ["Submit it?"])


def test_without_being_asked_it_submits_what_goes_to_one_of_the_places_that_were_named() -> None:
    by_owner, failed = Outcomes(), dict[str, HpcserveError]()
    some = offered("a"), offered("b", "/in/.ssh/r.h5"), offered("c", "/out/r.h5"), offered("d", "/~/r.h5")
    named = f"globus://{VAULT}/out/", f"globus://{VAULT}/in/"
    assert submit_each(cast("Submitter", by_owner), some, failed, named) is None
    assert by_owner.tried == [("a", named[1]), ("c", named[0])], "and is held to that one"
    assert list(failed) == ["b", "d"]
    assert all(isinstance(each, PermissionDenied) and "no --to names" in each.message for each in failed.values())


def test_one_that_fails_does_not_keep_those_behind_it_from_being_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = PermissionDenied("nobody agreed"), TransferFailed("refused to you")
    wanted, later = LoginRequired("a consent", detail={"code": "x"}), LoginRequired("another")
    by_owner = Outcomes(a=first, b=second, c=wanted, d=later)
    failed: dict[str, HpcserveError] = {}
    assert submit_each(cast("Submitter", by_owner), map(offered, "abcde"), failed) is wanted
    assert by_owner.tried == [(each, None) for each in "abcde"], "a service's own word of where it goes counts nothing"
    assert failed == {"a": first, "b": second}
    assert capsys.readouterr().err == "transfer b: refused to you\n", "the first is the command's own error"


class Busy:
    """A service that has one offered, which cannot be submitted just now."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def call(self, verb: str, _arguments: Any, _answer: type[Any]) -> TransferList:
        self.asked.append(verb)
        if verb == "submission":
            raise Conflict("transfer a starts anew; in a minute or two: hpcserve transfers --login")
        return TransferList(transfers=(offered("a"),))


def test_what_cannot_be_submitted_just_now_is_tried_once_and_ends_the_command_with_an_error() -> None:
    service = Busy()
    with pytest.raises(Conflict, match="in a minute or two"):
        log_in_for_all(cast("typer.Context", None), cast("Client", service))
    assert service.asked.count("submission") == 1


def test_where_there_is_no_terminal_it_is_not_the_same_command_that_helps() -> None:
    for told, said in (
        (
            "you may not yet; log in: hpcserve transfers --login",
            "you may not yet; log in at a terminal: hpcserve transfers --login",
        ),
        ("None of your identities", "None of your identities; log in at a terminal: hpcserve transfers --login"),
        (
            "t goes on after: hpcserve transfers --login",
            "t goes on after: hpcserve transfers --login; that takes a terminal",
        ),
    ):
        wanted = LoginRequired(told, detail={"code": "x"})
        assert (at_a_terminal(wanted).message, at_a_terminal(wanted).detail) == (said, wanted.detail)


def test_what_is_being_cancelled_waits_for_no_login() -> None:
    waiting = msgspec.structs.replace(offered("a"), login={"code": "x"})
    states = ("prepared", "offered", "inactive", "cancelling")
    assert [_waits(msgspec.structs.replace(waiting, state=each)) for each in states] == [True, True, True, False]
    assert _waits(offered("a"))
