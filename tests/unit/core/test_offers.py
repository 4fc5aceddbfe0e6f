"""Transfers that their owners submit themselves: when they are offered, and that each is one task whoever is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcserve.core import delivery as core
from hpcserve.core.delivery import Delivery, End, Limits, Progress, State, Trouble
from hpcserve.core.offers import FIND_S
from hpcserve.core.transfers import Transfers
from hpcserve.errors import Conflict, LoginRequired, ServiceUnavailable

LIMITS = Limits(batch_files=3, batch_wait_s=1.0, faults_s=100.0, give_up_s=1000.0, deadline_s=500.0, hand_s=60.0)
DOMAIN = {"authorization_parameters": {"session_message": "first", "session_required_single_domain": ["lab.example"]}}
REFUSED = Trouble("login", "wrong domain", detail=DOMAIN, by_transfer=True)


def delivery(
    number: int, *, at: float = 0.0, to: str = "vault", state: State = "waiting", path: str = "/in/"
) -> Delivery:
    source, target = End("site", f"/ann/{number}.h5"), End(to, f"{path}{number}.h5" if path.endswith("/") else path)
    submission = "sub" if state == "offered" else ""
    return Delivery(str(number), "ann", f"{number}.h5", source, target, 10, at, state, submission)


def refused(*deliveries: Delivery, trouble: Trouble = REFUSED) -> Transfers:
    """One shipment that Transfer does not take for a login."""
    transfers = Transfers(LIMITS)
    for each in deliveries:
        transfers.ask(each)
    transfers.tick(5.0)
    transfers.prepared(1, "sub", 5.0)
    transfers.failed(1, trouble, 5.0)
    return transfers


def offered(*deliveries: Delivery) -> Transfers:
    transfers = refused(*deliveries)
    transfers.offers.go_on(deliveries[0].id, 6.0, "anew")
    [_, submit] = transfers.tick(6.0)
    assert isinstance(submit, core.Submit)
    transfers.failed(1, REFUSED, 6.0)
    return transfers


def states(transfers: Transfers) -> list[str]:
    return [each.state for each in transfers.deliveries()]


def test_what_is_refused_again_after_the_login_is_its_owners() -> None:
    transfers = refused(delivery(1), delivery(2))
    assert states(transfers) == ["prepared"] * 2
    transfers.logged_in("ann", 6.0)  # perhaps a token that is merely newer
    transfers.tick(6.0)
    transfers.failed(1, REFUSED, 6.0)
    assert states(transfers) == ["prepared"] * 2
    with pytest.raises(Conflict, match="prepared"):
        transfers.offers.hand_out("1", 6.0)
    transfers.offers.go_on("2", 7.0, "anew")
    transfers.tick(7.0)
    worded = {"authorization_parameters": {**DOMAIN["authorization_parameters"], "session_message": "second"}}
    [stored] = transfers.failed(1, REFUSED._replace(detail=worded), 7.0)
    assert isinstance(stored, core.Store)
    assert [(each.state, each.why) for each in stored.deliveries] == [("offered", "wrong domain")] * 2
    assert transfers.login("1") == worded


@pytest.mark.parametrize(
    "second",
    [
        REFUSED._replace(by_transfer=False),
        REFUSED._replace(detail={"authorization_parameters": {"session_required_mfa": True}}),
        Trouble("again", "HTTP 503"),
    ],
)
def test_another_refusal_than_the_first_offers_nothing(second: Trouble) -> None:
    transfers = refused(delivery(1))
    transfers.offers.go_on("1", 6.0, "anew")
    transfers.tick(6.0)
    transfers.failed(1, second, 6.0)
    assert states(transfers) == ["prepared"]


def test_a_login_for_something_else_was_none_for_what_transfer_wants() -> None:
    transfers = refused(delivery(1))
    transfers.tick(transfers.due)
    transfers.failed(1, Trouble("login", "nobody is logged in", detail={}), 6.0)
    transfers.offers.go_on("1", 7.0, "anew")
    transfers.tick(7.0)
    transfers.failed(1, REFUSED, 7.0)
    assert states(transfers) == ["prepared"]


def test_a_login_that_the_service_wanted_itself_was_none_for_what_transfer_wants() -> None:
    transfers = refused(delivery(1), trouble=REFUSED._replace(by_transfer=False))
    transfers.offers.go_on("1", 6.0, "anew")
    transfers.tick(6.0)
    transfers.failed(1, REFUSED, 6.0)
    assert states(transfers) == ["prepared"]


def test_what_is_refused_before_there_is_an_id_is_not_its_owners_to_submit() -> None:
    transfers = Transfers(LIMITS)
    transfers.ask(delivery(1))
    for now in (5.0, 6.0):
        assert transfers.tick(now) == [core.Prepare(1, "ann")]
        transfers.failed(1, REFUSED, now)
        transfers.offers.go_on("1", now, f"anew-{now}")
    assert states(transfers) == ["waiting"]


def test_the_way_stays_closed_when_an_owner_has_submitted() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 7.0)
    transfers.reported("1", "sub", "task", 8.0)
    with pytest.raises(Conflict, match="active"):
        transfers.offers.hand_out("1", 8.0)
    transfers.ask(delivery(2, at=8.0))
    transfers.tick(10.0)
    transfers.prepared(2, "sub-2", 10.0)
    transfers.failed(2, REFUSED, 10.0)
    assert states(transfers) == ["active", "offered"]


def test_the_way_stays_closed_over_a_restart_with_something_offered() -> None:
    transfers = Transfers(LIMITS, [delivery(1, state="offered"), delivery(2, at=9.0)], 20.0)
    transfers.tick(20.0)
    transfers.prepared(2, "sub-2", 20.0)
    transfers.failed(2, REFUSED, 20.0)
    assert states(transfers) == ["offered", "offered"]


def together(transfers: Transfers, *numbers: int) -> list[list[str]]:
    """What travels together of what Transfer refuses now."""
    found = []
    for number in numbers:
        submit = transfers.prepared(number, f"sub-{number}", 20.0)[-1]
        assert isinstance(submit, core.Submit)
        found.append([each.id for each in submit.deliveries])
        transfers.failed(number, REFUSED, 20.0)
    return found


PLACES = delivery(2, path="/b/"), delivery(3, path="/b/"), delivery(4, path="/b/x.h5"), delivery(5, path="/b/y.h5")


def test_what_is_offered_goes_to_one_place_that_its_owner_has_named() -> None:
    """A yes to one place would else be a yes to another, and what was agreed to for one would wait for the other."""
    transfers = offered(delivery(1))
    for each in PLACES:
        transfers.ask(each)
    assert transfers.tick(20.0) == [core.Prepare(number, "ann") for number in (2, 3)]
    assert together(transfers, 2, 3) == [["2", "3"], ["4"]]
    transfers.cancel("1", 20.0)
    transfers.tick(20.0)
    assert together(transfers, 4) == [["5"]]
    assert states(transfers) == ["cancelled"] + ["offered"] * 4


@pytest.mark.parametrize("unsure", [True, False])
def test_what_went_to_several_places_before_it_was_offered_starts_anew_for_each(*, unsure: bool) -> None:
    transfers = refused(*PLACES[1:])
    if unsure:
        transfers.tick(transfers.due)
        transfers.failed(1, Trouble("again", "503"), 5.5)
    transfers.offers.go_on("3", 6.0, "anew")
    transfers.tick(6.0)
    transfers.failed(1, REFUSED, 6.0)
    if unsure:
        with pytest.raises(Conflict):
            transfers.offers.hand_out("3", 6.0)
        assert transfers.login("3") is None
        assert transfers.tick(transfers.due) == [core.Find(1, "ann", "sub")]
        transfers.found(1, "", 7.0)
    assert states(transfers) == ["waiting"] * 3
    assert transfers.tick(8.0) == [core.Prepare(number, "ann") for number in (2, 3, 4)]
    assert together(transfers, 2, 3, 4) == [["3"], ["4"], ["5"]]
    assert states(transfers) == ["offered"] * 3
    for each in ("3", "4", "5"):
        _, submit, _ = transfers.offers.hand_out(each, 20.0)
        assert [one.id for one in submit.deliveries] == [each]


def test_what_is_not_offered_may_go_to_several_places_and_is_tried_again() -> None:
    transfers = refused(*PLACES[1:])
    transfers.ask(delivery(1, at=5.0))
    transfers.tick(6.0)
    transfers.failed(1, Trouble("again", "503"), 6.0)
    transfers.prepared(2, "sub-2", 6.0)
    for again in (True, False):
        transfers.failed(2, REFUSED, 7.0)
        if again:
            transfers.offers.go_on("1", 7.0, "anew")
            transfers.tick(7.0)
    assert transfers.state("1") == "offered"
    transfers.failed(1, Trouble("again", "503"), 7.0)
    [_, submit] = transfers.tick(60.0)
    assert isinstance(submit, core.Submit)
    assert states(transfers) == ["prepared"] * 3 + ["offered"]


def test_what_goes_the_same_way_later_is_offered_at_once_until_the_service_gets_through() -> None:
    transfers = offered(delivery(1))
    transfers.ask(delivery(2, at=7.0))
    transfers.ask(delivery(3, at=7.0, to="tape"))
    transfers.tick(9.0)
    for number in (2, 3):
        transfers.prepared(number, f"sub-{number}", 9.0)
        transfers.failed(number, REFUSED, 9.0)
    assert states(transfers) == ["offered", "offered", "prepared"]
    transfers.ask(delivery(4, at=10.0))
    transfers.ask(delivery(5, at=20.0))
    transfers = Transfers(LIMITS._replace(tasks_per_owner=9), transfers.deliveries(), 20.0)
    transfers.tick(22.0)  # an owner who has come back, to a daemon that has
    transfers.prepared(4, "sub-4", 22.0)
    transfers.submitted(4, "task-4", 22.0)
    transfers.ask(delivery(6, at=23.0))
    transfers.tick(25.0)
    transfers.prepared(5, "sub-6", 25.0)
    transfers.failed(5, REFUSED, 25.0)
    assert states(transfers) == ["offered", "offered", "prepared", "active", "active", "prepared"]


def test_what_waits_behind_what_is_offered_says_so() -> None:
    transfers = offered(delivery(1))
    for number in (2, 3, 4):
        transfers.ask(delivery(number, at=7.0, to=f"laptop-{number}"))
        if number == 2:
            assert transfers.why("2") == "", "there is room"
        transfers.tick(9.0)
    assert transfers.why("1") == "wrong domain"
    assert transfers.why("3") == "", "its turn has come"
    assert transfers.why("4") == (
        "it is not its turn yet: 3 of the same owner's transfer tasks go first, 1 of which the owner has to submit: "
        "hpcserve transfers --login"
    )
    transfers.offers.hand_out("1", 10.0)
    transfers.reported("1", "sub", "task", 10.0)
    assert transfers.why("4") == "it is not its turn yet: 3 of the same owner's transfer tasks go first"
    transfers.ask(Delivery("5", "bob", "5.h5", End("site", "/bob/5.h5"), End("laptop", "/in/5.h5"), 10, 10.0))
    assert transfers.why("5") == "", "another owner's"
    transfers.looked(1, Progress("SUCCEEDED"), 11.0)
    assert transfers.why("4") == ""


def test_what_is_offered_is_looked_for_and_its_id_stays_while_its_owner_may_be_about_to() -> None:
    transfers = offered(delivery(1), delivery(2))
    stored, submit, login = transfers.offers.hand_out("1", 10.0)
    assert (submit.submission, [each.id for each in submit.deliveries]) == ("sub", ["1", "2"])
    assert [each.state for each in stored.deliveries] == ["offered"] * 2
    assert login == DOMAIN
    transfers.cancel("2", 11.0)
    for now in (12.0, 40.0, 69.0):
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        assert transfers.found(1, "", now) == []
        assert now < transfers.due <= now + LIMITS.longest_pause_s
        transfers.logged_in("ann", now)
    assert states(transfers) == ["offered", "cancelling"]
    with pytest.raises(Conflict):
        transfers.offers.hand_out("1", 69.0)
    transfers.tick(70.0)
    transfers.found(1, "", 70.0)
    assert states(transfers) == ["waiting", "cancelled"]
    with pytest.raises(Conflict, match="waiting"):
        transfers.offers.hand_out("1", 70.0)
    assert transfers.tick(71.0) == [core.Prepare(1, "ann")]


def test_what_its_owner_only_looks_at_is_not_handed_out() -> None:
    transfers = offered(delivery(1))
    submit, login = transfers.offers.look("1", 10.0)
    assert (submit.submission, [each.id for each in submit.deliveries], login) == ("sub", ["1"], DOMAIN)
    assert transfers.tick(11.0) == []
    transfers.cancel("1", 12.0)
    assert states(transfers) == ["cancelled"], "at once"
    with pytest.raises(Conflict, match="cancelled"):
        transfers.offers.look("1", 12.0)


def test_why_what_is_offered_cannot_be_submitted_just_now_is_said() -> None:
    transfers = offered(delivery(1), delivery(2))
    transfers.offers.hand_out("1", 10.0)
    transfers.offers.not_submitted("1", "sub", Trouble("stale", "too old an id"), 11.0)
    with pytest.raises(Conflict, match=r"1 is looked for at Globus .*\(too old an id\).*: hpcserve transfers --login"):
        transfers.offers.look("1", 12.0)
    transfers = offered(delivery(1), delivery(2))
    transfers.offers.hand_out("1", 10.0)
    transfers.cancel("2", 11.0)
    with pytest.raises(Conflict, match=r"1 starts anew, since one .* was cancelled; .*: hpcserve transfers --login"):
        transfers.offers.look("1", 12.0)
    with pytest.raises(Conflict, match="2 is cancelling, and not its owner's"):
        transfers.offers.look("2", 12.0)
    transfers = offered(delivery(1))
    with pytest.raises(Conflict, match="1 is given up"):
        transfers.offers.look("1", LIMITS.give_up_s)


def test_what_was_handed_out_in_vain_is_looked_for_until_globus_would_list_it() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    finds, now = [], 10.0
    while now < 900.0:
        for each in transfers.tick(now):
            assert each == core.Find(1, "ann", "sub")
            finds.append(now)
            transfers.found(1, "", now)
        now = max(transfers.due, now + 0.1)
    over = 10.0 + LIMITS.hand_s + FIND_S
    assert over <= finds[-1] <= over + LIMITS.longest_pause_s
    late = Transfers(LIMITS, transfers.deliveries(), 680.0)
    assert late.tick(680.0), "nobody knows what was seen before a restart"
    transfers.reported("1", "sub", "task", 905.0)
    assert states(transfers) == ["active"], "who is that late is followed all the same"


def test_what_was_handed_out_in_vain_is_looked_for_long_enough_and_again_when_it_is_handed_out_again() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    for now in (100.0, 660.0, 671.0):
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        transfers.found(1, "", now)
    assert transfers.tick(800.0) == []
    transfers.offers.hand_out("1", 801.0)
    assert transfers.tick(801.0) == [core.Find(1, "ann", "sub")]
    transfers.found(1, "task", 801.0)
    assert states(transfers) == ["active"]


def test_what_the_service_may_have_submitted_itself_before_it_was_offered_is_looked_for_as_long() -> None:
    transfers = refused(delivery(1))
    transfers.tick(transfers.due)
    transfers.failed(1, Trouble("again", "503"), 6.0)
    transfers.offers.go_on("1", 6.0, "anew")
    transfers.tick(6.0)
    transfers.failed(1, REFUSED, 6.0)
    assert states(transfers) == ["offered"]
    for now in (7.0, 100.0, 606.0):
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        transfers.found(1, "", now)
    assert transfers.tick(800.0) == []


def test_what_its_owner_has_submitted_and_cancelled_is_cancelled_at_globus() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    transfers.cancel("1", 11.0)
    transfers.tick(12.0)
    transfers.found(1, "task", 12.0)
    assert transfers.tick(12.0) == [core.Cancel(1, "ann", "task")]


def test_nothing_is_handed_out_while_the_service_tries_once_more() -> None:
    transfers = offered(delivery(1))
    transfers.offers.go_on("1", 10.0, "anew")
    with pytest.raises(ServiceUnavailable):
        transfers.offers.hand_out("1", 10.0)
    transfers.tick(10.0)
    transfers.failed(1, Trouble("login", "nobody is logged in", detail={}), 10.0)
    assert (transfers.deliveries()[0].why, states(transfers)) == ("wrong domain", ["offered"])
    [_, submit] = transfers.tick(transfers.due)
    assert isinstance(submit, core.Submit), "it is not known yet which login Transfer wants"


@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("answer", ["found", "failed"])
def test_what_is_reported_is_followed_whatever_comes_of_the_look_on_its_way(*, busy: bool, answer: str) -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    with pytest.raises(Conflict, match="cancel that"):
        transfers.reported("1", "another", "task", 10.0)
    if busy:
        transfers.tick(11.0)
    stored = transfers.reported("1", "sub", "task", 12.0)
    assert bool(stored) is not busy
    with pytest.raises(Conflict, match="already, as task task" if busy else "is active"):
        transfers.offers.hand_out("1", 12.0)
    if busy and answer == "found":
        transfers.found(1, "", 12.0)
    elif busy:
        transfers.failed(1, Trouble("fatal", "no"), 12.0)
    assert [(each.state, each.task, each.why) for each in transfers.deliveries()] == [("active", "task", "")]
    assert transfers.reported("1", "sub", "task", 13.0) == []
    with pytest.raises(Conflict):
        transfers.reported("1", "sub", "another", 13.0)
    assert transfers.deliveries()[0].task == "task"


def test_what_was_offered_before_a_restart_is_tried_and_told_of_again() -> None:
    transfers = Transfers(LIMITS, [delivery(1, state="offered")], 100.0)
    [_, submit] = transfers.tick(100.0)
    assert isinstance(submit, core.Submit)
    transfers.failed(1, REFUSED, 100.0)
    assert (states(transfers), transfers.login("1")) == (["offered"], DOMAIN)
    assert transfers.tick(101.0) == [core.Find(1, "ann", "sub")]
    transfers.cancel("1", 102.0)
    transfers.found(1, "", 102.0)
    assert states(transfers) == ["cancelling"], "an owner may have had it just before the restart"
    transfers.tick(160.0)
    transfers.found(1, "", 160.0)
    assert states(transfers) == ["cancelled"]


@pytest.mark.parametrize("kind", ["again", "fatal", "stale", "gone"])
def test_an_offer_does_not_end_because_its_task_cannot_be_looked_for(kind: Any) -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    for now in range(10, 900, 30):
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        transfers.failed(1, Trouble(kind, "HTTP 503"), now)
    assert (states(transfers), transfers.deliveries()[0].why) == (["offered"], "wrong domain")
    assert transfers.offers.hand_out("1", 905.0)[1].submission == "sub"
    transfers.tick(1000.0)
    transfers.found(1, "", 1000.0)
    transfers.tick(1001.0)
    assert states(transfers) == ["failed"]


def test_what_was_never_handed_out_is_not_looked_for() -> None:
    transfers = offered(delivery(1))
    assert (transfers.tick(transfers.due), transfers.due) == ([], 1000.0)
    transfers.logged_in("ann", 20.0)
    assert (transfers.tick(20.0), transfers.due) == ([], 1000.0)
    transfers.offers.hand_out("1", 30.0)
    assert (transfers.due, transfers.tick(30.0)) == (30.0, [core.Find(1, "ann", "sub")])


def test_what_is_cancelled_before_a_restart_is_looked_for_as_long_as_its_owner_may_submit_it() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    transfers.cancel("1", 11.0)
    transfers = Transfers(LIMITS, transfers.deliveries(), 12.0)
    for now in (12.0, 71.0):
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        transfers.found(1, "", now)
    assert states(transfers) == ["cancelling"]
    transfers.tick(72.0)
    transfers.found(1, "task", 72.0)
    assert transfers.tick(72.0) == [core.Cancel(1, "ann", "task")]


def test_who_reports_too_late_is_told_to_cancel_it() -> None:
    transfers = offered(delivery(1), delivery(2))
    transfers.offers.hand_out("1", 10.0)
    transfers.cancel("2", 11.0)
    transfers.tick(70.0)
    transfers.found(1, "", 70.0)
    assert states(transfers) == ["waiting", "cancelled"]
    for id in ("1", "2"):
        with pytest.raises(Conflict, match="task late of it is not followed"):
            transfers.reported(id, "sub", "late", 71.0)
    transfers.tick(71.0)
    transfers.prepared(1, "sub-2", 71.0)
    with pytest.raises(Conflict):
        transfers.reported("1", "sub", "late", 72.0)


def test_a_login_that_the_service_needs_to_see_what_transfer_wants_is_told() -> None:
    consent = Trouble("login", "consent missing", detail={"authorization_parameters": {"required_scopes": ["x"]}})
    transfers = Transfers(LIMITS, [delivery(1, state="offered")], 100.0)
    for now in (100.0, 130.0):
        transfers.tick(now)
        transfers.failed(1, consent, now)
        assert (states(transfers), transfers.login("1")) == (["offered"], consent.detail)
        with pytest.raises(LoginRequired, match="consent missing") as caught:
            transfers.offers.hand_out("1", now)
        assert caught.value.detail == consent.detail
        transfers.offers.go_on("1", now, "anew")
        assert transfers.login("1") is None
    transfers.tick(131.0)
    transfers.failed(1, REFUSED, 131.0)
    assert transfers.offers.hand_out("1", 131.0)[2] == DOMAIN
    transfers.tick(132.0)
    transfers.failed(1, consent, 132.0)
    assert transfers.offers.hand_out("1", 133.0)[2] == DOMAIN, "it is known"


@pytest.mark.parametrize(("kind", "state", "submission"), [("stale", "waiting", ""), ("fatal", "failed", "sub")])
def test_what_globus_refuses_to_its_owner_too_is_looked_for_and_then_replaced_or_given_up(
    kind: Any, state: State, submission: str
) -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    assert transfers.offers.not_submitted("1", "another", Trouble(kind, "no"), 11.0) == []
    [stored] = transfers.offers.not_submitted("1", "sub", Trouble(kind, "no"), 11.0)
    assert isinstance(stored, core.Store)
    assert [each.why for each in stored.deliveries] == ["no"]
    with pytest.raises(Conflict):
        transfers.offers.hand_out("1", 12.0)
    for now in (12.0, 69.0):
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        transfers.found(1, "", now)
        assert states(transfers) == ["offered"], "another client may have the id, too"
    transfers.tick(70.0)
    transfers.found(1, "", 70.0)
    assert [(each.state, each.submission) for each in transfers.deliveries()] == [(state, submission)]
    assert transfers.offers.not_submitted("1", "sub", Trouble(kind, "no"), 71.0) == []


def test_asking_twice_is_no_login() -> None:
    by_first = REFUSED._replace(by="first")
    transfers = refused(delivery(1), trouble=by_first)
    transfers.offers.go_on("1", 6.0, "first")
    transfers.tick(6.0)
    transfers.failed(1, by_first, 6.0)
    assert states(transfers) == ["prepared"]
    # Another login, which was tried before anybody said that it is one.
    transfers.logged_in("ann", 7.0)
    transfers.tick(7.0)
    transfers.failed(1, REFUSED._replace(by="second"), 7.0)
    assert states(transfers) == ["prepared"]
    transfers.offers.go_on("1", 8.0, "second")
    transfers.tick(8.0)
    transfers.failed(1, REFUSED._replace(by="second"), 8.0)
    assert states(transfers) == ["offered"]


def test_an_id_that_is_too_old_is_replaced_when_nobody_can_have_used_it() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    transfers.offers.go_on("1", 11.0, "anew")
    transfers.tick(11.0)
    transfers.failed(1, Trouble("stale", "expired"), 11.0)
    transfers.tick(20.0)
    transfers.found(1, "", 20.0)
    assert transfers.deliveries()[0].submission == "sub"
    transfers.tick(70.0)
    transfers.found(1, "", 70.0)
    assert (states(transfers), transfers.deliveries()[0].submission) == (["waiting"], "")


CONSENT = Trouble("login", "consent missing", detail={"authorization_parameters": {"required_scopes": ["x"]}})


def test_what_transfer_wants_is_told_though_the_service_lacked_a_login_before() -> None:
    transfers = Transfers(LIMITS, [delivery(1, state="offered")], 100.0)
    for trouble in (CONSENT, REFUSED):
        transfers.tick(transfers.due)
        transfers.failed(1, trouble, 130.0)
    assert transfers.offers.hand_out("1", 130.0)[2] == DOMAIN


def test_no_login_is_waited_for_once_the_service_has_got_through() -> None:
    transfers = Transfers(LIMITS, [delivery(1, state="offered")], 100.0)
    transfers.tick(100.0)
    transfers.failed(1, CONSENT, 100.0)
    transfers.tick(transfers.due)
    transfers.submitted(1, "task", 130.0)
    assert (states(transfers), transfers.login("1")) == (["active"], None)


def test_a_service_that_globus_does_not_answer_lacks_no_login() -> None:
    transfers = Transfers(LIMITS, [delivery(1, state="offered")], 100.0)
    transfers.tick(100.0)
    transfers.failed(1, Trouble("again", "HTTP 503"), 100.0)
    with pytest.raises(ServiceUnavailable):
        transfers.offers.hand_out("1", 100.0)
    assert transfers.login("1") is None


@pytest.mark.parametrize("busy", [True, False])
def test_that_one_client_was_refused_changes_nothing_where_another_has_submitted_it(*, busy: bool) -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    if busy:  # it is looked for meanwhile
        transfers.tick(10.0)
    transfers.reported("1", "sub", "task", 11.0)
    assert transfers.offers.not_submitted("1", "sub", Trouble("fatal", "no"), 12.0) == []
    if busy:
        transfers.found(1, "", 13.0)
    assert [(each.state, each.task, each.why) for each in transfers.deliveries()] == [("active", "task", "")]


def test_that_one_client_was_refused_changes_nothing_where_the_task_was_found() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    transfers.tick(10.0)
    transfers.found(1, "task", 11.0)
    assert transfers.offers.not_submitted("1", "sub", Trouble("fatal", "no"), 12.0) == []


def test_what_was_refused_to_its_owner_is_looked_for_at_once_and_waits_for_no_login_but_the_services() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    transfers.tick(10.0)
    transfers.found(1, "", 10.0)
    assert transfers.due > 10.1
    transfers.offers.not_submitted("1", "sub", Trouble("fatal", "no"), 10.1)
    assert (transfers.due, transfers.login("1")) == (10.1, None)
    transfers.tick(10.1)
    transfers.failed(1, CONSENT, 10.1)
    assert transfers.login("1") == CONSENT.detail


def test_what_was_handed_out_long_ago_is_offered_still() -> None:
    transfers = offered(delivery(1))
    transfers.offers.hand_out("1", 10.0)
    for now in (60.0, 120.0, 180.0):
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        assert transfers.found(1, "", now) == []
    assert transfers.offers.hand_out("1", 181.0)[1].submission == "sub"


@pytest.mark.parametrize("handed", [True, False])
def test_what_globus_refuses_to_the_service_for_good_is_no_offer_any_more(*, handed: bool) -> None:
    transfers = offered(delivery(1))
    if handed:
        transfers.offers.hand_out("1", 10.0)
        transfers.tick(10.0)
        transfers.found(1, "", 10.0)
    transfers.offers.go_on("1", 11.0, "anew")
    assert isinstance(transfers.tick(11.0)[-1], core.Submit)
    transfers.failed(1, Trouble("fatal", "no such collection"), 11.0)
    if handed:
        assert transfers.tick(transfers.due) == [core.Find(1, "ann", "sub")], "its owner may have submitted it"
        transfers.found(1, "", 70.0)
    assert [(each.state, each.why) for each in transfers.deliveries()] == [("failed", "no such collection")]


def test_a_refusal_in_the_words_of_what_the_service_wanted_itself_is_the_first() -> None:
    first = REFUSED._replace(by="first")
    transfers = refused(delivery(1), trouble=REFUSED._replace(by_transfer=False, by="earlier"))
    transfers.tick(6.0)
    transfers.failed(1, first, 6.0)
    transfers.offers.go_on("1", 7.0, "first")
    transfers.tick(7.0)
    transfers.failed(1, first, 7.0)
    assert states(transfers) == ["prepared"]


@pytest.mark.parametrize(("kind", "until"), [("fatal", 10.0 + 60.0 + 500.0), ("again", 1000.0 + 500.0)])
def test_what_is_lost_ends_when_no_task_of_it_can_be_under_way(kind: Any, until: float) -> None:
    transfers = Transfers(LIMITS)
    transfers.ask(delivery(1))
    transfers.tick(5.0)
    transfers.prepared(1, "sub", 5.0)
    transfers.failed(1, Trouble("again", "no answer"), 5.0)  # it may have been submitted
    transfers.tick(9.0)
    transfers.failed(1, Trouble("fatal", "no such collection"), 9.0)
    now = 10.0
    while not transfers.deliveries()[0].ended:
        assert now <= until + LIMITS.longest_pause_s
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        transfers.failed(1, Trouble(kind, "HTTP 500"), now)
        now = min(transfers.due, now + LIMITS.longest_pause_s)
    assert [(each.state, each.why) for each in transfers.deliveries()] == [("failed", "no such collection")]
    assert now > until - 2 * LIMITS.longest_pause_s


# --- killed between any two of their steps ------------------------------------------------------------


class Died(Exception):
    pass


@dataclass
class Globus:
    """Takes nothing from the service itself. It outlives everybody, and so does the store."""

    rows: dict[str, Delivery]
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    ids: int = 0
    now: float = 0.0


@dataclass
class Daemon:
    """It dies after so many steps."""

    globus: Globus
    steps_left: int | None

    def __post_init__(self) -> None:
        self.transfers = Transfers(LIMITS, self.globus.rows.values(), self.globus.now)

    def step(self) -> None:
        if self.steps_left is not None:
            if not self.steps_left:
                raise Died
            self.steps_left -= 1

    def tick(self) -> None:
        self.carry_out(self.transfers.tick(self.globus.now))

    def carry_out(self, actions: list[core.Action]) -> None:
        for action in actions:
            self.step()
            if isinstance(action, core.Store):
                self.globus.rows |= {each.id: each for each in action.deliveries}
            elif not isinstance(action, core.Forget):
                self.carry_out(self.answer(action))

    def answer(self, step: core.Step) -> list[core.Action]:
        globus, transfers, now = self.globus, self.transfers, self.globus.now
        if isinstance(step, core.Prepare):
            globus.ids += 1
            return transfers.prepared(step.shipment, f"sub-{globus.ids}", now)
        if isinstance(step, core.Submit):
            return transfers.failed(step.shipment, REFUSED, now)
        if isinstance(step, core.Find):
            task = f"task-{step.submission}" if step.submission in globus.tasks else ""
            return transfers.found(step.shipment, task, now)
        if isinstance(step, core.Cancel):
            globus.cancelled.add(step.task)
            return transfers.cancelled(step.shipment, now)
        over = step.task in globus.cancelled
        return transfers.looked(step.shipment, Progress("FAILED" if over else "SUCCEEDED", cancelled=over), now)


@dataclass
class Service:
    """A daemon, and after each that dies another. ``cancel_at``: then the first delivery is not wanted any more."""

    globus: Globus
    lives: list[int | None]
    cancel_at: float

    def __post_init__(self) -> None:
        self.daemon = Daemon(self.globus, self.lives.pop(0))

    def do(self, what: Callable[[Daemon], None]) -> bool:
        """Whether nobody has died of it."""
        try:
            what(self.daemon)
        except Died:
            self.daemon = Daemon(self.globus, self.lives.pop(0))
            return False
        return True

    def tick(self) -> None:
        now = self.globus.now
        if (
            now >= self.cancel_at
            and not self.globus.rows["0"].ended
            and self.do(lambda daemon: daemon.carry_out(daemon.transfers.cancel("0", now)))
        ):
            self.cancel_at = float("inf")
        self.do(Daemon.tick)

    def goes_on(self, for_s: float) -> None:
        until = self.globus.now + for_s
        while self.globus.now < until:
            self.tick()
            self.globus.now = min(until, max(self.globus.now + 0.1, self.daemon.transfers.due))


@dataclass
class Owner:
    """Logs in, submits and reports; dies after so many of these, and is as slow as the service waits for."""

    globus: Globus
    steps_left: int
    slow_s: float

    def steps(self) -> bool:
        self.steps_left -= 1
        return self.steps_left >= 0

    def act(self, service: Service) -> None:
        for each in service.daemon.transfers.deliveries():
            if each.ended or service.daemon.transfers.login(each.id) is None or not self.steps():
                continue
            if each.state == "offered":
                self.submit(service, each.id)
            else:
                self.log_in(service, each.id)

    def log_in(self, service: Service, id: str) -> None:
        service.do(lambda daemon: daemon.carry_out(daemon.transfers.offers.go_on(id, self.globus.now, "anew")))

    def submit(self, service: Service, id: str) -> None:
        orders: list[core.Submit] = []

        def hand_out(daemon: Daemon) -> None:
            stored, submit, _ = daemon.transfers.offers.hand_out(id, self.globus.now)
            daemon.carry_out([stored])
            orders.append(submit)

        try:
            if not service.do(hand_out):
                return
        except (Conflict, ServiceUnavailable):
            return
        service.goes_on(self.slow_s)
        if not self.steps():
            return
        [order] = orders
        self.globus.tasks.setdefault(order.submission, tuple(each.id for each in order.deliveries))
        task = f"task-{order.submission}"
        if self.steps():
            service.do(
                lambda daemon: daemon.carry_out(daemon.transfers.reported(id, order.submission, task, self.globus.now))
            )


@example(lives=[12, 2], owners=[], files=1, slow_s=29.0, cancel_at=2.92, places=1)
@settings(deadline=None, max_examples=300)
@given(
    lives=st.lists(st.integers(0, 20), max_size=6),
    owners=st.lists(st.integers(1, 12), max_size=8),
    files=st.integers(1, 5),
    slow_s=st.sampled_from([0.0, 1.0, 29.0]),
    cancel_at=st.just(float("inf")) | st.floats(0.0, 60.0),
    places=st.integers(1, 3),
)
def test_whoever_is_killed_when_each_is_one_task_and_none_is_forgotten(
    lives: list[int], owners: list[int], files: int, slow_s: float, cancel_at: float, places: int
) -> None:
    globus = Globus({str(number): delivery(number, path=f"/{number % places}/") for number in range(files)})
    left, service = [*owners, 10_000], Service(globus, [*lives, None], cancel_at)
    owner = Owner(globus, left.pop(0), slow_s)
    for _ in range(2_000):
        if all(each.ended for each in globus.rows.values()):
            break
        owner.act(service)
        service.tick()
        if owner.steps_left <= 0:
            owner = Owner(globus, left.pop(0), slow_s)
        globus.now = max(globus.now + 0.1, min(service.daemon.transfers.due, globus.now + 20.0))
    else:
        raise AssertionError(f"no end: {globus.rows}")
    over = {each: members for each, members in globus.tasks.items() if f"task-{each}" not in globus.cancelled}
    moved = sorted(id for members in over.values() for id in members)
    assert moved == sorted(set(moved)), "twice"
    assert moved == sorted(each.id for each in globus.rows.values() if each.state == "succeeded")
    assert all(each.state == "succeeded" or each.id == "0" for each in globus.rows.values())
