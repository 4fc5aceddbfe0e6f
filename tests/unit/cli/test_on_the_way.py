"""What is said of a transfer on its way, and what a Ctrl-C leaves behind: nothing is claimed that is not known."""

from __future__ import annotations

from hpcserve.cli.on_the_way import SILENT_S, OnTheWay
from hpcserve.client.sending import Transfer


class Told:
    """A way, what was said of it, and its clock."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0
        self.way = OnTheWay(self.lines.append, lambda: self.now)

    def last(self) -> str:
        return self.lines[-1]


def transfer(state: str, away: str = "") -> Transfer:
    return Transfer(id="t", to="globus://x/r", state=state, away=away)


def test_what_goes_on_is_said_once_for_each_change_and_goes_on_after_ctrl_c() -> None:
    told = Told()
    told.way.part()
    told.way.show(None)
    assert told.lines == [], "nothing is on its way"
    for state in ("waiting", "waiting", "active"):
        told.now += 2.0
        told.way.show(transfer(state))
    assert [each.rpartition(" ")[2] for each in told.lines] == ["waiting", "active"]
    told.way.part()
    assert told.last() == "transfer t goes on; see: hpcserve transfers --watch"


def test_that_nobody_answers_is_said_and_nobody_is_told_that_it_goes_on() -> None:
    told = Told()
    told.way.show(seen := transfer("waiting"))
    told.now += SILENT_S
    told.way.show(seen)
    assert told.last().endswith(
        "was waiting when it was seen last, and is asked for again: the service gives no answer about it"
    )
    told.way.show(transfer("waiting", away="Globus Auth gives no answer about your login"))
    assert told.last().endswith("Globus Auth gives no answer about your login")
    told.way.part()
    assert "goes on" not in told.last()
    assert "may have ended since" in told.last()
    told.way.show(transfer("active"))
    told.way.part()
    assert "goes on" in told.last(), "it is seen again"


def test_what_waits_for_its_owner_is_said_to_with_the_command() -> None:
    for state, waits in (("offered", False), ("prepared", True)):
        told = Told()
        told.way.show(transfer(state))
        told.now += 10 * SILENT_S  # at the prompt
        told.way.waits_for_login = waits
        told.way.part()
        assert told.last() == "transfer t waits for you; it goes on after: hpcserve transfers --login"
