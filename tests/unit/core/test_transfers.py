"""When transfer tasks are submitted, and what becomes of deliveries: by tables, and by a Globus that dies with us."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcserve.core import delivery as core
from hpcserve.core.delivery import Delivery, End, Limits, Progress, Trouble
from hpcserve.core.faults import AT_ONCE, Bearing
from hpcserve.core.offers import FIND_S
from hpcserve.core.transfers import APART, GONE_S, Transfers
from hpcserve.errors import NotFound, TransferFailed

LIMITS = Limits(tasks_per_owner=2, batch_files=3, batch_wait_s=1.0, faults_s=100.0, give_up_s=1000.0, deadline_s=500.0)


def delivery(number: int, *, owner: str = "ann", size: int = 10, at: float = 0.0, to: str = "laptop") -> Delivery:
    source = End("site", f"/{owner}/{number}.h5")
    return Delivery(str(number), owner, f"{number}.h5", source, End(to, f"/in/{number}.h5"), size, at)


def begun(*deliveries: Delivery, limits: Limits = LIMITS, now: float = 5.0) -> tuple[Transfers, list[core.Action]]:
    transfers = Transfers(limits)
    for each in deliveries:
        assert transfers.ask(each) == [core.Store((each,))]
    return transfers, transfers.tick(now)


def submitted(*deliveries: Delivery, limits: Limits = LIMITS) -> Transfers:
    transfers, actions = begun(*deliveries, limits=limits)
    assert [type(each) for each in actions] == [core.Prepare]
    transfers.prepared(1, "sub", 5.0)
    transfers.submitted(1, "task", 5.0)
    return transfers


def states(transfers: Transfers) -> list[str]:
    return [each.state for each in transfers.deliveries()]


def test_a_batch_waits_a_moment_for_more() -> None:
    transfers, actions = begun(delivery(1), now=0.5)
    assert actions == []
    assert transfers.due == 1.0
    transfers.ask(delivery(2, at=0.9))
    assert transfers.tick(1.0) == [core.Prepare(1, "ann")]
    stored, submit = transfers.prepared(1, "sub", 1.1)
    assert isinstance(stored, core.Store)
    assert [(each.state, each.submission) for each in stored.deliveries] == [("prepared", "sub")] * 2
    assert submit == core.Submit(1, "ann", "sub", stored.deliveries)


def test_a_full_batch_waits_for_nobody() -> None:
    _, actions = begun(*(delivery(number) for number in range(4)), now=0.1)
    assert actions == [core.Prepare(1, "ann")]


def test_an_owner_has_so_many_tasks_and_the_rest_wait_in_order() -> None:
    transfers, actions = begun(*(delivery(number, at=number / 100) for number in range(8)), delivery(9, owner="bob"))
    assert actions == [core.Prepare(1, "ann"), core.Prepare(2, "ann"), core.Prepare(3, "bob")]
    transfers.prepared(2, "sub-2", 6.0)
    transfers.submitted(2, "task-2", 6.0)
    assert transfers.tick(6.0) == [core.Look(2, "ann", "task-2")]
    transfers.looked(2, Progress("SUCCEEDED"), 7.0)
    assert states(transfers)[:8] == ["waiting"] * 3 + ["succeeded"] * 3 + ["waiting"] * 2
    assert transfers.tick(7.0) == [core.Prepare(4, "ann")]
    _, submit = transfers.prepared(4, "sub-4", 7.0)
    assert isinstance(submit, core.Submit)
    assert [each.id for each in submit.deliveries] == ["6", "7"]


def test_a_task_has_files_of_one_owner_for_one_collection() -> None:
    _, actions = begun(delivery(1), delivery(2, to="tape"), delivery(3, owner="bob"))
    assert len(actions) == 3


def test_two_files_for_one_path_do_not_travel_together() -> None:
    other = replace(delivery(2), target=delivery(1).target)
    transfers, actions = begun(delivery(1), other)
    assert len(actions) == 2
    assert isinstance(transfers.prepared(1, "sub", 5.0)[1], core.Submit)


def test_a_batch_has_so_many_bytes() -> None:
    limits = LIMITS._replace(batch_bytes=25)
    _, actions = begun(delivery(1), delivery(2), delivery(3), limits=limits)
    assert len(actions) == 2


def test_the_same_is_asked_for_once_unless_it_failed() -> None:
    transfers = submitted(delivery(1))
    assert transfers.ask(delivery(1)) == []
    transfers.looked(1, Progress("FAILED", fault="PERMISSION_DENIED", details="no"), 6.0)
    assert states(transfers) == ["failed"]
    assert transfers.ask(delivery(1, at=7.0)) == [core.Store((delivery(1, at=7.0),))]


@pytest.mark.parametrize("status", ["FAILED", "INACTIVE", "ACTIVE"])
def test_only_a_task_that_succeeded_has_delivered(status: str) -> None:
    transfers = submitted(delivery(1))
    transfers.looked(1, Progress(status), 6.0)
    assert states(transfers) != ["succeeded"]
    assert transfers.holds("ann", "1.h5") is (status != "FAILED")


def test_a_file_is_held_until_it_was_delivered() -> None:
    transfers = submitted(delivery(1))
    assert transfers.holds("ann", "1.h5")
    assert not transfers.holds("bob", "1.h5")
    transfers.looked(1, Progress("SUCCEEDED"), 6.0)
    assert not transfers.holds("ann", "1.h5")


def test_a_failed_task_says_why_in_the_words_of_globus() -> None:
    transfers = submitted(delivery(1))
    transfers.looked(1, Progress("FAILED", fault="NO_SPACE", details="disk full"), 6.0)
    assert transfers.deliveries()[0].why == "Globus Transfer: NO_SPACE: disk full"


def test_what_nobody_mends_is_cancelled_after_a_time_that_is_told() -> None:
    transfers = submitted(delivery(1))
    assert transfers.until("1") is None
    faulty = Progress("ACTIVE", fault="ENDPOINT_ERROR", details="broken")
    for now in (6.0, 50.0, 105.0):
        transfers.looked(1, faulty, now)
        assert (states(transfers), transfers.until("1")) == (["active"], 6.0 + LIMITS.faults_s)
    transfers.looked(1, faulty, 106.0)
    assert transfers.tick(106.0) == [core.Cancel(1, "ann", "task")]
    transfers.cancelled(1, 106.0)
    assert transfers.tick(106.0) == [core.Look(1, "ann", "task")]
    transfers.looked(1, Progress("FAILED", cancelled=True), 107.0)
    assert (states(transfers), transfers.deliveries()[0].why) == (
        ["failed"],
        "Globus Transfer: ENDPOINT_ERROR: broken",
    )


@pytest.mark.parametrize("code", sorted(AT_ONCE))
def test_what_only_its_owner_mends_is_cancelled_at_once_and_says_what_to_do(code: str) -> None:
    transfers = submitted(delivery(1), delivery(2))
    refused = Progress("ACTIVE", fault=code, details="no")
    transfers.looked(1, refused, 6.0)
    assert (states(transfers), transfers.until("1")) == (["cancelling"] * 2, None)
    assert transfers.tick(6.0) == [core.Cancel(1, "ann", "task")]
    transfers.cancelled(1, 6.0)
    transfers.tick(6.0)
    transfers.looked(1, refused, 6.5)  # it has not ended yet
    assert transfers.tick(6.5) == []
    transfers.looked(1, Progress("FAILED", cancelled=True), 8.0)
    why = f"Globus Transfer: {code}: no; {AT_ONCE[code]}"
    assert [(each.state, each.why) for each in transfers.deliveries()] == [("failed", why)] * 2


def elsewhere(number: int, path: str) -> Delivery:
    return replace(delivery(number), target=End("laptop", path))


@pytest.mark.parametrize("status", ["ACTIVE", "FAILED"])
def test_a_refusal_takes_with_it_only_what_goes_to_the_same_directory(status: str) -> None:
    transfers = submitted(elsewhere(1, "/in/a"), elsewhere(2, "/locked/b"), elsewhere(3, "/in/c"))
    transfers.looked(1, Progress(status, fault="PERMISSION_DENIED", details="/locked/b"), 6.0)
    if status == "ACTIVE":
        assert {each.why for each in transfers.deliveries()} == {APART}
        assert transfers.tick(6.0) == [core.Cancel(1, "ann", "task")]
        transfers.cancelled(1, 6.0)
        transfers.looked(1, Progress("FAILED", cancelled=True), 7.0)
    assert states(transfers) == ["waiting"] * 3
    assert transfers.tick(8.0) == [core.Prepare(2, "ann"), core.Prepare(3, "ann")]
    together = []
    for number in (2, 3):
        submit = transfers.prepared(number, f"sub-{number}", 8.0)[-1]
        assert isinstance(submit, core.Submit)
        together.append([each.id for each in submit.deliveries])
        transfers.submitted(number, f"task-{number}", 8.0)
    assert together == [["1", "3"], ["2"]]
    transfers.looked(2, Progress("SUCCEEDED"), 9.0)
    transfers.looked(3, Progress("FAILED", fault="PERMISSION_DENIED", details="/locked/b"), 9.0)
    assert states(transfers) == ["succeeded", "failed", "succeeded"]


def test_what_starts_anew_apart_can_be_cancelled_and_a_new_daemon_ends_the_task_too() -> None:
    transfers = submitted(elsewhere(1, "/in/a"), elsewhere(2, "/locked/b"))
    transfers.looked(1, Progress("ACTIVE", fault="PERMISSION_DENIED"), 6.0)
    transfers.cancel("1", 6.0)
    again = Transfers(LIMITS, transfers.deliveries())
    assert again.tick(7.0) == [core.Cancel(1, "ann", "task")]
    again.cancelled(1, 7.0)
    again.looked(1, Progress("FAILED", cancelled=True), 8.0)
    assert states(again) == ["cancelled", "waiting"]


def test_somebody_else_s_cancelling_is_no_refusal() -> None:
    transfers = submitted(delivery(1))
    transfers.looked(1, Progress("FAILED", fault="PERMISSION_DENIED", cancelled=True), 6.0)
    assert states(transfers) == ["cancelled"]


def test_a_fault_after_which_the_task_gets_on_is_forgiven() -> None:
    transfers = submitted(delivery(1))
    for number, now in enumerate(range(6, 500, 60)):
        transfers.looked(1, Progress("ACTIVE", fault="FILE_NOT_FOUND", files=number), now)
        transfers.looked(1, Progress("ACTIVE", files=number + 1), now + 30)
        assert transfers.until("1") is None
    assert states(transfers) == ["active"]


def test_a_file_that_is_sent_again_and_again_ends_at_the_time_that_was_told_first() -> None:
    transfers, sent = submitted(delivery(1)), 0
    for tries, now in enumerate(range(6, 106, 10), 1):
        sent += 10
        faulty = Progress("ACTIVE", size_bytes=sent, fault="VERIFY_CHECKSUM", details="differs", faults=tries)
        transfers.looked(1, faulty, now)
        assert (states(transfers), transfers.until("1")) == (["active"], 6.0 + LIMITS.faults_s)
        assert transfers.due <= 106.0
        transfers.looked(1, Progress("ACTIVE", size_bytes=sent + 5, faults=tries), now + 5)
        assert transfers.until("1") is None, "it may be the time that it arrives"
    transfers.looked(1, Progress("ACTIVE", size_bytes=sent + 9, faults=10), 106.0)
    assert states(transfers) == ["active"], "it is not stopped while it is sent"
    transfers.looked(1, Progress("ACTIVE", size_bytes=sent + 10, faults=11), 107.0)  # and begun again by now
    assert transfers.tick(107.0) == [core.Cancel(1, "ann", "task")]
    assert transfers.deliveries()[0].why == "Globus Transfer: VERIFY_CHECKSUM: differs"


def test_what_is_sent_beyond_where_it_failed_before_begins_the_time_anew() -> None:
    bearing = Bearing()
    assert bearing.looked(Progress("ACTIVE", size_bytes=10, fault="ENDPOINT_ERROR", faults=1), 5.0, 0)
    assert not bearing.looked(Progress("ACTIVE", size_bytes=20, faults=1), 6.0, 0)
    assert bearing.since == 5.0
    assert not bearing.looked(Progress("ACTIVE", size_bytes=21, faults=1), 7.0, 0)
    assert bearing.since is None
    assert bearing.looked(Progress("ACTIVE", size_bytes=25, fault="ENDPOINT_ERROR", faults=2), 8.0, 0)
    assert not bearing.looked(Progress("ACTIVE", size_bytes=40, faults=2), 9.0, 0)
    assert bearing.since == 8.0, "15 were sent before"


def test_a_file_that_goes_on_where_it_was_gets_on_though_no_stretch_is_longer_than_the_one_before() -> None:
    bearing = Bearing()
    for faults, (sent, now) in enumerate([(500, 5000.0), (800, 8000.0), (950, 9500.0)], 1):
        bearing.looked(Progress("ACTIVE", size_bytes=sent - 10, faults=faults - 1), now - 100.0, 1000)
        assert bearing.since is None
        assert bearing.looked(Progress("ACTIVE", size_bytes=sent, fault="ENDPOINT_ERROR", faults=faults), now, 1000)
        assert bearing.since == now
    assert not bearing.looked(Progress("ACTIVE", size_bytes=1000, faults=3), 9600.0, 1000)
    assert bearing.since is None
    # Beyond what there is, it is the same once more.
    assert bearing.looked(Progress("ACTIVE", size_bytes=1000, fault="VERIFY_CHECKSUM", faults=4), 9700.0, 1000)
    assert not bearing.looked(Progress("ACTIVE", size_bytes=1001, faults=4), 9800.0, 1000)
    assert bearing.since == 9700.0


@pytest.mark.parametrize("waits", [Progress("INACTIVE", faults=1), Progress("ACTIVE", fault="GC_NOT_CONNECTED")])
def test_the_time_in_which_a_task_waits_for_somebody_is_not_counted(waits: Progress) -> None:
    bearing = Bearing()
    assert bearing.looked(Progress("ACTIVE", fault="VERIFY_CHECKSUM", faults=1), 5.0, 0)
    assert not bearing.looked(waits, 10.0, 0)
    assert not bearing.looked(waits, 1000.0, 0)
    assert bearing.looked(Progress("ACTIVE", fault="VERIFY_CHECKSUM", faults=2), 1001.0, 0)
    assert bearing.since == 1000.0


def test_an_offline_laptop_is_waited_for_and_said() -> None:
    transfers = submitted(delivery(1))
    for now in range(6, 900, 100):
        transfers.looked(1, Progress("ACTIVE", fault="GC_NOT_CONNECTED", details="gc not connected"), now)
    assert states(transfers) == ["active"]
    assert transfers.deliveries()[0].why == "GC_NOT_CONNECTED: gc not connected"
    transfers.looked(1, Progress("ACTIVE", fault="GC_NOT_CONNECTED", until_s=4000.0), 1000.0)
    assert transfers.until("1") == 4000.0, "as Globus says"


def test_expired_credentials_wait_for_a_login_and_go_on_after_it() -> None:
    transfers = submitted(delivery(1))
    transfers.looked(1, Progress("INACTIVE"), 6.0)
    assert states(transfers) == ["inactive"]
    assert "hpcserve transfers --login" in transfers.deliveries()[0].why
    transfers.tick(7.0)
    transfers.looked(1, Progress("ACTIVE", size_bytes=5), 7.0)
    assert (states(transfers), transfers.deliveries()[0].why) == (["active"], "")


def test_a_login_that_is_wanted_is_tried_at_once_when_it_has_come() -> None:
    transfers, _ = begun(delivery(1))
    transfers.failed(1, Trouble("login", "consent", detail={"code": "ConsentRequired"}), 6.0)
    for _ in range(12):
        now = transfers.due
        transfers.tick(now)
        transfers.failed(1, Trouble("login", "consent", detail={"code": "ConsentRequired"}), now)
    assert transfers.login("1") == {"code": "ConsentRequired"}
    later = now + 20.0
    transfers.logged_in("bob", later)
    assert transfers.tick(later) == []
    transfers.logged_in("ann", later)
    assert transfers.tick(later) == [core.Prepare(1, "ann")]
    transfers.prepared(1, "sub", 20.0)
    assert transfers.login("1") is None


@pytest.mark.parametrize("kind", ["again", "stale"])
def test_what_has_long_waited_for_a_login_does_not_fail_at_the_first_hiccup(kind: Literal["again", "stale"]) -> None:
    transfers, _ = begun(delivery(1))
    transfers.failed(1, Trouble("login", "consent"), 6.0)
    transfers.failed(1, Trouble("login", "consent"), 500.0)
    transfers.failed(1, Trouble(kind, "HTTP 503"), 501.0)
    assert states(transfers) == ["waiting"]
    transfers.failed(1, Trouble(kind, "HTTP 503"), 501.0 + LIMITS.faults_s)
    assert states(transfers) == ["failed"]


def test_a_login_is_wanted_until_one_has_come_whatever_else_goes_wrong_meanwhile() -> None:
    wanted = Trouble("login", "consent", detail={"code": "ConsentRequired"})
    transfers = submitted(delivery(1))
    transfers.failed(1, wanted, 6.0)
    transfers.failed(1, Trouble("again", "HTTP 503"), 7.0)
    transfers.logged_in("ann", 8.0)  # perhaps a token that is merely newer
    assert (transfers.login("1"), states(transfers)) == ({"code": "ConsentRequired"}, ["inactive"])
    assert transfers.ask(delivery(1)) == []
    [stored] = transfers.offers.go_on("1", 9.0, "anew")
    assert isinstance(stored, core.Store)
    assert [(each.state, each.why) for each in stored.deliveries] == [("active", "")]
    assert (transfers.login("1"), transfers.tick(9.0)) == (None, [core.Look(1, "ann", "task")])
    transfers.failed(1, wanted, 10.0)
    assert (transfers.login("1"), states(transfers)) == ({"code": "ConsentRequired"}, ["inactive"])
    assert transfers.offers.go_on("unknown", 11.0, "anew") == []


def test_what_nobody_waits_for_a_login_for_stays_inactive_when_it_is_asked_for_again() -> None:
    transfers = submitted(delivery(1))
    transfers.looked(1, Progress("INACTIVE"), 6.0)
    assert transfers.offers.go_on("1", 7.0, "anew") == []
    assert states(transfers) == ["inactive"]


def test_pauses_grow_and_what_globus_asks_for_is_kept() -> None:
    transfers, _ = begun(delivery(1))
    pauses = []
    now = 5.0
    for _ in range(5):
        transfers.failed(1, Trouble("again", "503"), now)
        pauses.append(transfers.due - now)
        now = transfers.due
        transfers.tick(now)
    assert pauses == sorted(pauses)
    assert pauses[0] == LIMITS.shortest_pause_s
    transfers.failed(1, Trouble("again", "429", retry_after_s=77.0), now)
    assert transfers.tick(now + 76.9) == []
    assert transfers.tick(now + 77.0) == [core.Prepare(1, "ann")]


def test_refusals_are_borne_for_a_time_only() -> None:
    transfers, _ = begun(delivery(1))
    transfers.failed(1, Trouble("again", "HTTP 503: maintenance"), 6.0)
    transfers.failed(1, Trouble("again", "HTTP 503: maintenance"), 105.9)
    assert states(transfers) == ["waiting"]
    transfers.failed(1, Trouble("again", "HTTP 503: maintenance"), 106.0)
    assert (states(transfers), transfers.deliveries()[0].why) == (["failed"], "HTTP 503: maintenance")


def test_a_task_under_way_is_not_given_up_because_globus_does_not_answer() -> None:
    transfers = submitted(delivery(1))
    for now in range(6, 900, 100):
        transfers.failed(1, Trouble("again", "HTTP 503"), now)
    assert states(transfers) == ["active"]


@pytest.mark.parametrize("kind", ["again", "login"])
def test_a_task_under_way_is_held_until_it_is_over_its_deadline(kind: str) -> None:
    transfers = submitted(delivery(1))
    trouble = Trouble(kind, "HTTP 503")  # type: ignore[arg-type]  # of the kinds above
    transfers.failed(1, trouble, 1499.0)  # it may have been submitted as late as at 1000
    assert transfers.holds("ann", "1.h5")
    transfers.failed(1, trouble, 1500.0)
    assert states(transfers) == ["failed"]


def test_one_refusal_to_tell_of_a_task_does_not_end_it() -> None:
    transfers = submitted(delivery(1))
    for now in (6.0, 105.0):
        transfers.failed(1, Trouble("fatal", "HTTP 403, by a proxy"), now)
        assert states(transfers) == ["active"]
    transfers.failed(1, Trouble("fatal", "HTTP 404"), 106.0)
    assert (states(transfers), transfers.deliveries()[0].why) == (["failed"], "HTTP 404")


def test_what_is_to_be_cancelled_ends_soon_when_globus_does_not_know_it() -> None:
    transfers = submitted(delivery(1), delivery(2))
    transfers.cancel("1", 6.0)
    transfers.tick(6.0)
    gone = Trouble("gone", "HTTP 404")
    for now in (6.0, 6.0 + GONE_S - 0.1):  # it may have been submitted a moment ago
        transfers.failed(1, gone, now)
        assert states(transfers) == ["cancelling", "active"]
    transfers.failed(1, gone, 6.0 + GONE_S)
    assert states(transfers) == ["cancelled", "waiting"]


def test_a_task_that_globus_does_not_know_is_borne_for_a_time_that_is_told() -> None:
    transfers = submitted(delivery(1))
    transfers.failed(1, Trouble("gone", "HTTP 404: it knows no such task"), 6.0)
    assert (states(transfers), transfers.until("1")) == (["active"], 106.0)
    assert transfers.deliveries()[0].why == "HTTP 404: it knows no such task"
    transfers.failed(1, Trouble("gone", "HTTP 404: it knows no such task"), 106.0)
    assert states(transfers) == ["failed"]


def test_one_that_was_asked_for_long_ago_takes_no_other_with_it() -> None:
    transfers, _ = begun(delivery(1), delivery(2, at=990.0), now=995.0)
    transfers.failed(1, Trouble("again", "HTTP 503"), 999.0)
    assert transfers.tick(1000.0) == [
        core.Store((replace(delivery(1), state="failed", why="HTTP 503", ended_s=1000.0),)),
        core.Prepare(1, "ann"),
    ]
    assert states(transfers) == ["failed", "waiting"]


def test_nobody_waits_in_line_for_ever() -> None:
    transfers, _ = begun(*(delivery(number) for number in range(8)))
    for now in (999.0, 1000.0):
        transfers.tick(now)
    assert states(transfers) == ["waiting"] * 6 + ["failed"] * 2
    assert "turn" in transfers.deliveries()[7].why


def test_a_submission_id_that_is_too_old_is_replaced() -> None:
    transfers, _ = begun(delivery(1))
    transfers.prepared(1, "old", 5.0)
    transfers.failed(1, Trouble("stale", "expired"), 6.0)
    assert transfers.tick(transfers.due) == [core.Prepare(1, "ann")]
    _, submit = transfers.prepared(1, "new", 6.0)
    assert isinstance(submit, core.Submit)
    assert submit.submission == "new"


def test_ids_that_are_never_good_are_asked_for_more_seldom_and_then_no_more() -> None:
    transfers, _ = begun(delivery(1))
    asked = [6.0]
    while not transfers.deliveries()[0].ended:
        transfers.tick(asked[-1])
        transfers.prepared(1, f"at-{asked[-1]}", asked[-1])
        transfers.failed(1, Trouble("stale", "no such submission id"), asked[-1])
        asked.append(transfers.due)
    pauses = [later - sooner for sooner, later in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert len(pauses) < 20
    assert (states(transfers), transfers.deliveries()[0].why) == (["failed"], "no such submission id")


@pytest.mark.parametrize(
    "refusals", [[Trouble("again", "HTTP 503")] * 2, [Trouble("fatal", "no")], [Trouble("stale", "old")]]
)
@pytest.mark.parametrize("found", ["task", ""])
def test_what_may_have_been_submitted_is_looked_for_before_it_ends(refusals: list[Trouble], found: str) -> None:
    transfers, _ = begun(delivery(1))
    transfers.prepared(1, "sub", 5.0)
    transfers.failed(1, Trouble("again", "the answer is lost"), 6.0)
    for trouble in refusals:
        now = 106.0 if trouble.kind == "again" else 50.0
        [_, submit] = transfers.tick(now)
        assert isinstance(submit, core.Submit)
        transfers.failed(1, trouble, now)
        if transfers.tick(now + 30.0) == [core.Find(1, "ann", "sub")]:
            break
    else:
        raise AssertionError("not looked for")
    transfers.failed(1, Trouble("again", "HTTP 503"), 750.0)
    assert transfers.holds("ann", "1.h5")
    assert transfers.tick(800.0) == [core.Find(1, "ann", "sub")]
    transfers.found(1, found, 801.0)
    wanted = "active" if found else "waiting" if refusals[0].kind == "stale" else "failed"
    assert states(transfers) == [wanted]


def test_of_a_result_that_was_discarded_nothing_undelivered_is_kept() -> None:
    transfers = submitted(delivery(1), delivery(2))
    transfers.looked(1, Progress("FAILED", fault="PERMISSION_DENIED"), 6.0)
    assert states(transfers) == ["failed"] * 2
    name = transfers.deliveries()[0].name
    assert transfers.discarded([("bob", name)]) == []
    assert transfers.discarded([("ann", name)]) == [core.Forget(("1",))]
    assert [each.id for each in transfers.deliveries()] == ["2"]
    arrived = submitted(delivery(1))
    arrived.looked(1, Progress("SUCCEEDED"), 6.0)
    assert arrived.discarded([("ann", name)]) == [], "it is where it was to go"


@pytest.mark.parametrize("restarts", [False, True])
def test_what_was_submitted_without_an_answer_is_looked_for_until_globus_would_list_it(*, restarts: bool) -> None:
    transfers, _ = begun(delivery(1), delivery(2))
    transfers.prepared(1, "sub", 5.0)
    transfers.failed(1, Trouble("again", "no answer"), 15.0)
    if restarts:
        transfers = Transfers(LIMITS, transfers.deliveries(), 15.0)
    transfers.cancel("1", 16.0)
    now = 16.0
    while now < 15.0 + FIND_S:
        assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
        transfers.found(1, "", now)
        assert states(transfers) == ["cancelling", "prepared"], "not listed yet"
        now = transfers.due
    assert transfers.tick(now) == [core.Find(1, "ann", "sub")]
    transfers.found(1, "", now)
    assert states(transfers) == ["cancelled", "waiting"]


def test_what_was_refused_and_never_taken_ends_at_once() -> None:
    transfers, _ = begun(delivery(1))
    transfers.prepared(1, "sub", 5.0)
    transfers.failed(1, Trouble("fatal", "no such collection"), 6.0)
    assert states(transfers) == ["failed"]


def test_one_of_two_is_cancelled_and_the_other_starts_anew() -> None:
    transfers = submitted(delivery(1), delivery(2))
    transfers.cancel("1", 6.0)
    assert transfers.tick(6.0) == [core.Cancel(1, "ann", "task")]
    transfers.cancelled(1, 6.0)
    transfers.tick(6.0)
    transfers.looked(1, Progress("FAILED", cancelled=True), 7.0)
    assert states(transfers) == ["cancelled", "waiting"]
    assert transfers.tick(8.0) == [core.Prepare(2, "ann")]


def test_a_task_that_succeeded_before_it_could_be_cancelled_has_delivered() -> None:
    transfers = submitted(delivery(1))
    transfers.cancel("1", 6.0)
    transfers.tick(6.0)
    transfers.cancelled(1, 6.0)
    transfers.looked(1, Progress("SUCCEEDED"), 7.0)
    assert states(transfers) == ["succeeded"]


@pytest.mark.parametrize("busy", [True, False])
def test_what_was_not_submitted_is_cancelled_without_globus(*, busy: bool) -> None:
    transfers, _ = begun(delivery(1), delivery(2))
    if not busy:
        transfers.failed(1, Trouble("again", "503"), 5.0)
    transfers.cancel("1", 6.0)
    if busy:
        *_, submit = transfers.prepared(1, "sub", 6.0)
        assert isinstance(submit, core.Submit)
        assert [each.id for each in submit.deliveries] == ["2"]
    assert states(transfers)[0] == "cancelled"


def test_what_cannot_be_cancelled_is_said() -> None:
    transfers = submitted(delivery(1))
    with pytest.raises(NotFound, match="hpcserve transfers"):
        transfers.cancel("2", 6.0)
    transfers.looked(1, Progress("SUCCEEDED"), 6.0)
    with pytest.raises(TransferFailed, match="succeeded already"):
        transfers.cancel("1", 7.0)


def test_somebody_else_cancels_the_task() -> None:
    transfers = submitted(delivery(1))
    transfers.looked(1, Progress("FAILED", cancelled=True), 6.0)
    assert states(transfers) == ["cancelled"]


def test_what_ended_long_ago_is_forgotten() -> None:
    transfers = submitted(delivery(1))
    transfers.looked(1, Progress("SUCCEEDED"), 6.0)
    assert transfers.tick(6.0 + LIMITS.forget_s) == []
    assert transfers.tick(6.1 + LIMITS.forget_s) == [core.Forget(("1",))]
    assert transfers.deliveries() == []


def test_progress_is_that_of_the_whole_task() -> None:
    transfers = submitted(delivery(1), delivery(2))
    transfers.looked(1, Progress("ACTIVE", size_bytes=7, files=1, bytes_per_s=3.0), 6.0)
    assert transfers.progress("2") == (Progress("ACTIVE", size_bytes=7, files=1, bytes_per_s=3.0), 20, 2)


# --- killed between any two actions -------------------------------------------------------------------


class Died(Exception):
    pass


class World:
    """A store and a Globus, which both outlive the daemon, and a daemon that dies after so many steps."""

    def __init__(self) -> None:
        self.rows: dict[str, Delivery] = {}
        self.ids = 0
        self.tasks: dict[str, tuple[str, ...]] = {}
        self.looks: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.now = 0.0
        self.steps_left: int | None = None
        self.trouble: Callable[[], Trouble | None] = lambda: None
        self.lost: Callable[[], bool] = lambda: False

    def step(self) -> None:
        if self.steps_left is not None:
            if not self.steps_left:
                raise Died
            self.steps_left -= 1

    def run(self, transfers: Transfers, wanted: Callable[[], bool]) -> None:
        for _ in range(10_000):
            if wanted():
                return
            self.carry_out(transfers, transfers.tick(self.now))
            self.now = max(self.now + 0.01, min(transfers.due, self.now + 50.0))
        raise AssertionError(f"no end: {self.rows}")

    def carry_out(self, transfers: Transfers, actions: list[core.Action]) -> None:
        for action in actions:
            self.step()
            if isinstance(action, core.Store):
                self.rows |= {each.id: each for each in action.deliveries}
            elif isinstance(action, core.Forget):
                for id in action.ids:
                    self.rows.pop(id)
            else:
                self.ask_globus(transfers, action)

    def ask_globus(self, transfers: Transfers, action: core.Step) -> None:
        trouble = self.trouble()
        if trouble is not None:
            self.carry_out(transfers, transfers.failed(action.shipment, trouble, self.now))
            return
        if isinstance(action, core.Prepare):
            self.ids += 1
            answer = transfers.prepared(action.shipment, f"sub-{self.ids}", self.now)
        elif isinstance(action, core.Submit):
            assert all(self.rows[each.id].submission == action.submission for each in action.deliveries), "not stored"
            self.tasks.setdefault(action.submission, tuple(each.id for each in action.deliveries))
            self.step()  # killed after Globus took it, and before its answer came
            if self.lost():
                trouble = Trouble("again", "the answer is lost")
                self.carry_out(transfers, transfers.failed(action.shipment, trouble, self.now))
                return
            answer = transfers.submitted(action.shipment, f"task-{action.submission}", self.now)
        elif isinstance(action, core.Find):
            task = f"task-{action.submission}" if action.submission in self.tasks else ""
            answer = transfers.found(action.shipment, task, self.now)
        elif isinstance(action, core.Cancel):
            self.cancelled.add(action.task)
            answer = transfers.cancelled(action.shipment, self.now)
        else:
            self.looks[action.task] = self.looks.get(action.task, 0) + 1
            status = "SUCCEEDED" if self.looks[action.task] > 2 else "ACTIVE"
            if action.task in self.cancelled:
                status = "FAILED"
            answer = transfers.looked(
                action.shipment, Progress(status, cancelled=action.task in self.cancelled), self.now
            )
        self.carry_out(transfers, answer)


@settings(deadline=None, max_examples=200)
@given(
    lives=st.lists(st.integers(0, 25), max_size=8),
    files=st.integers(1, 7),
    owners=st.integers(1, 2),
    troubles=st.lists(st.sampled_from(["", "", "again", "login"]), max_size=30),
)
def test_killed_anywhere_it_submits_each_once_and_forgets_none(
    lives: list[int], files: int, owners: int, troubles: list[str]
) -> None:
    world = World()
    left = list(troubles)

    def trouble() -> Trouble | None:
        kind = left.pop() if left else ""
        return Trouble(kind, "told to") if kind else None  # type: ignore[arg-type]  # of the kinds above

    world.trouble = trouble
    asked = [delivery(number, owner="ann" if number % owners else "bob") for number in range(files)]
    for each in asked:
        world.rows[each.id] = each
    for steps in [*lives, None]:
        world.steps_left = steps
        transfers = Transfers(LIMITS, world.rows.values())
        try:
            world.run(transfers, lambda: all(each.ended for each in world.rows.values()))
        except Died:
            continue
    assert {each.state for each in world.rows.values()} == {"succeeded"}
    submitted = [id for members in world.tasks.values() for id in members]
    assert sorted(submitted) == sorted(each.id for each in asked)


@settings(deadline=None, max_examples=200)
@given(
    lives=st.lists(st.integers(0, 25), max_size=4),
    files=st.integers(1, 5),
    lost=st.lists(st.booleans(), max_size=4),
    troubles=st.lists(st.sampled_from(["", "", "again", "again", "login", "fatal", "stale"]), max_size=12),
)
def test_whatever_globus_answers_no_task_is_forgotten_and_nothing_is_sent_twice(
    lives: list[int], files: int, lost: list[bool], troubles: list[str]
) -> None:
    world = World()
    left, to_lose = list(troubles), list(lost)

    def trouble() -> Trouble | None:
        kind = left.pop() if left else ""
        return Trouble(kind, "told to") if kind else None  # type: ignore[arg-type]  # of the kinds above

    world.trouble = trouble
    world.lost = lambda: bool(to_lose) and to_lose.pop()
    for number in range(files):
        world.rows[str(number)] = delivery(number)
    limits = LIMITS._replace(faults_s=1.0)
    for steps in [*lives, None]:
        world.steps_left = steps
        transfers = Transfers(limits, world.rows.values())
        try:
            world.run(transfers, lambda: all(each.ended for each in world.rows.values()))
        except Died:
            continue
    sent = [id for members in world.tasks.values() for id in members]
    assert sorted(sent) == sorted(set(sent))
    for id in sent:
        # A refusal to tell of a task for longer than faults_s is the one way to lose sight of it.
        assert world.rows[id].state == "succeeded" or "fatal" in troubles


@settings(deadline=None, max_examples=100)
@given(lives=st.lists(st.integers(0, 25), max_size=6), when=st.integers(0, 12), files=st.integers(1, 4))
def test_killed_anywhere_what_is_cancelled_ends(lives: list[int], when: int, files: int) -> None:
    world = World()
    for number in range(files):
        world.rows[str(number)] = delivery(number)
    wanted = False
    for steps in [when, *lives, None]:
        world.steps_left = steps
        transfers = Transfers(LIMITS, world.rows.values())
        try:
            if steps != when and not wanted and not world.rows["0"].ended:
                world.carry_out(transfers, transfers.cancel("0", world.now))
                wanted = True
            world.run(transfers, lambda: all(each.ended for each in world.rows.values()))
        except Died:
            continue
    assert all(each.state in ("succeeded", "cancelled") for each in world.rows.values())
    assert all(each.state == "succeeded" for each in world.rows.values() if each.id != "0")
