"""``hpcserve transfers``: what is shown of each, and which are brought once more."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any, cast

import pytest

from hpcserve.cli.asking import prompt
from hpcserve.cli.main import main
from hpcserve.cli.terminal import complain, note
from hpcserve.cli.transfers import _again, _moved, _show, progress
from hpcserve.client import Client
from hpcserve.client.sending import transfer_of
from hpcserve.errors import Conflict
from hpcserve.wire.admin import Deliver, TransferList, TransferView


def view(state: str, **more: Any) -> TransferView:
    told: dict[str, Any] = {
        "id": "t",
        "owner": "ada",
        "path": "/s/r.h5",
        "to": "globus://x/r",
        "size_bytes": 4_000_000,
        "asked_s": 0.0,
    }
    return TransferView(state=state, **told | more)


class Service:
    """Has one transfer, and notes what it is asked for."""

    def __init__(self, state: str) -> None:
        self._state = state
        self.asked: list[Any] = []

    def call(self, _verb: str, arguments: Any, _answer: type[Any]) -> TransferList:
        self.asked.append(arguments)
        return TransferList(transfers=(view("waiting" if isinstance(arguments, Deliver) else self._state),))


def test_what_has_moved_is_what_has() -> None:
    for state in ("waiting", "prepared", "offered"):
        assert _moved(view(state)) == "0 B of 4.0 MB"
    assert _moved(view("active", task="g", task_bytes=1000, task_bytes_in_all=8_000_000)) == "1.0 kB of 8.0 MB"
    assert _moved(view("failed", task="g")) == _moved(view("cancelled")) == ""
    assert _moved(view("succeeded", task="g")) == "4.0 MB"


def test_how_long_one_has_waited_is_shown_and_to_administrators_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    waits = view("waiting", asked_s=time.time() - 40 * 86400, why="you are not logged in")
    for owners in (False, True):
        _show([waits], json=False, lines=False, owners=owners)
        shown = capsys.readouterr().out
        assert "40 d 0 h ago" in shown
        assert ("ada" in shown) == owners


def test_what_did_not_arrive_is_shown_with_what_brings_it_once_more(capsys: pytest.CaptureFixture[str]) -> None:
    _show([view("failed", why="no room")], json=False, lines=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "t: no room" in shown
    assert "incomplete" not in shown, "nothing has moved"
    assert "once more: hpcserve transfers --again t" in shown
    _show([view("failed", why="no room", task="g")], json=False, lines=False)
    assert "what had moved may lie at the destination, incomplete" in " ".join(capsys.readouterr().out.split())


def test_nothing_that_a_service_says_of_a_transfer_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hides = "\x1b[8m\u202e\x9b8m\r"
    said = dict.fromkeys(("id", "owner", "path", "to", "why", "task"), f"a{hides}b")
    for state in ("offered", "failed", hides):
        _show([view(state, **said)], json=False, lines=False, owners=True)
    note(progress(transfer_of(view("active", **said))))
    note(progress(replace(transfer_of(view("active", **said)), away=hides)))
    complain(f"transfer {hides}")
    sys.stderr.write(prompt("https://auth.example/", f"why {hides}\nmore", f"read {hides}"))
    seen = capsys.readouterr()
    assert not set("\x1b\u202e\x9b\r") & set(seen.out + seen.err)
    assert "a\\x1b[8m\\u202e\\x9b8m\\rb" in "".join(seen.err.split())
    assert "\nmore\n" in seen.err, "lines stay"


def test_one_that_is_being_cancelled_is_not_brought_once_more_in_silence() -> None:
    for state, now in (("failed", "waiting"), ("cancelled", "waiting"), ("active", "active")):
        assert _again(cast("Client", Service(state)), "t") == now
    service = Service("cancelling")
    with pytest.raises(Conflict, match="--again t"):
        _again(cast("Client", service), "t")
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["run", "x", "--keep-login"], "say --to"), (["transfers", "--yes"], "--login --yes --to URI")],
)
def test_an_option_that_would_do_nothing_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
