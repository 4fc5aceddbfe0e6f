"""Deliveries wait for their owners for as long as it takes, unless the site says otherwise or nobody wants them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpcserve.core import delivery as core
from hpcserve.core.delivery import Delivery, End, Limits, Progress, Trouble
from hpcserve.core.transfers import Transfers
from hpcserve.errors import ServiceUnavailable

LIMITS = Limits(tasks_per_owner=1, batch_wait_s=0.0, faults_s=100.0, deadline_s=500.0, hand_s=60.0)
YEARS_S = 1e9
LOGIN = Trouble("login", "you are not logged in", detail={})
ENDED_S = LIMITS.deadline_s + LIMITS.hand_s
"""After that any task has ended."""


def delivery(number: int, to: str = "laptop") -> Delivery:
    source, target = End("site", f"/ann/{number}.h5"), End(to, f"/in/{number}.h5")
    return Delivery(str(number), "ann", f"{number}.h5", source, target, 10, 0.0)


def begun(*deliveries: Delivery, limits: Limits = LIMITS) -> Transfers:
    """The first has a submission id."""
    transfers = Transfers(limits)
    for each in deliveries:
        transfers.ask(each)
    transfers.tick(1.0)
    transfers.prepared(1, "first", 1.0)
    return transfers


def states(transfers: Transfers) -> list[str]:
    return [each.state for each in transfers.deliveries()]


def test_what_waits_for_a_login_or_for_its_turn_waits_for_ever() -> None:
    transfers = begun(delivery(1), delivery(2, to="elsewhere"))
    transfers.failed(1, LOGIN, 2.0)
    for now in (YEARS_S, YEARS_S + 60):
        [submit] = [each for each in transfers.tick(now) if isinstance(each, core.Submit)]
        transfers.failed(1, LOGIN, now)
    assert submit.submission == "first"
    assert states(transfers) == ["prepared", "waiting"]
    assert transfers.holds("ann", "1.h5")
    assert transfers.holds("ann", "2.h5")
    transfers.logged_in("ann", YEARS_S + 61)
    assert core.Submit(1, "ann", "first", submit.deliveries) in transfers.tick(YEARS_S + 61)
    transfers.submitted(1, "task", YEARS_S + 61)
    transfers.looked(1, Progress("SUCCEEDED"), YEARS_S + 62)
    assert states(transfers) == ["succeeded", "waiting"]


def test_a_task_whose_owner_is_away_is_waited_for_for_ever() -> None:
    transfers = begun(delivery(1))
    transfers.submitted(1, "task", 2.0)
    for now in (3.0, YEARS_S):
        transfers.tick(now)
        transfers.failed(1, LOGIN, now)
    assert states(transfers) == ["inactive"]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_may_have_been_submitted_long_ago_is_looked_for_first(*, is_restarted: bool) -> None:
    transfers = begun(delivery(1))
    transfers.failed(1, Trouble("again", "no answer"), 2.0)
    transfers.tick(10.0)
    transfers.failed(1, LOGIN, 10.0)
    later = LIMITS.sure_s + 1.0
    if is_restarted:
        transfers = Transfers(LIMITS, transfers.deliveries())
    else:
        assert isinstance(transfers.tick(later - 0.5)[-1], core.Submit), "Globus is sure to know the id until then"
        transfers.failed(1, LOGIN, later - 0.5)
        later += 60.0
    assert transfers.tick(later) == [core.Find(1, "ann", "first")]
    transfers.failed(1, LOGIN, later)
    assert transfers.login("1") == {}
    transfers.logged_in("ann", later + 1)
    assert transfers.tick(later + 1) == [core.Find(1, "ann", "first")]
    known = replace(transfers.deliveries()[0], task="task", state="active", why="")
    found = Transfers(LIMITS, transfers.deliveries())
    found.tick(later + 1)
    assert found.found(1, "task", later + 1) == [core.Store((known,))]
    transfers.found(1, "", later + 1)
    assert transfers.tick(later + 2) == [core.Prepare(1, "ann")]
    _, submit = transfers.prepared(1, "second", later + 2)
    assert isinstance(submit, core.Submit)
    transfers.failed(1, Trouble("again", "no answer"), later + 2)
    assert isinstance(transfers.tick(transfers.due)[-1], core.Submit), "this id is new"


def test_what_was_handed_to_its_owner_long_ago_gets_another_id() -> None:
    transfers = begun(delivery(1))
    transfers.failed(1, LOGIN._replace(by_transfer=True, by="a"), 2.0)
    transfers.offers.go_on("1", 3.0, by="b")
    transfers.tick(3.0)
    transfers.failed(1, LOGIN._replace(by_transfer=True, by="b"), 3.0)
    assert states(transfers) == ["offered"]
    transfers.offers.hand_out("1", LIMITS.sure_s)
    with pytest.raises(ServiceUnavailable, match="once more"):
        transfers.offers.hand_out("1", LIMITS.sure_s + 1.0)
    later = LIMITS.sure_s + 1.0 + LIMITS.hand_s
    assert transfers.tick(later) == [core.Find(1, "ann", "first")]
    transfers.found(1, "", later)
    assert transfers.tick(later + 1) == [core.Prepare(1, "ann")]


@pytest.mark.parametrize("task", ["task", ""])
def test_what_is_cancelled_ends_though_its_owner_never_comes_back(task: str) -> None:
    transfers = begun(delivery(1), delivery(2))
    if task:
        transfers.submitted(1, task, 2.0)
    transfers.tick(2.0)
    transfers.failed(1, LOGIN if task else Trouble("again", "no answer"), 2.0)
    transfers.cancel("1", 10.0)
    for now in (10.0, 10.0 + ENDED_S - 1):
        transfers.tick(now)
        transfers.failed(1, LOGIN, now)
        assert states(transfers)[0] == "cancelling", "it may arrive yet"
    transfers.tick(10.0 + ENDED_S + 60)
    transfers.failed(1, LOGIN, 10.0 + ENDED_S + 60)
    assert states(transfers) == ["cancelled", "waiting"]
    assert not transfers.holds("ann", "1.h5")
    assert transfers.holds("ann", "2.h5")


def test_what_is_lost_and_must_not_be_looked_for_ends_when_any_task_of_it_has() -> None:
    transfers = begun(delivery(1))
    transfers.failed(1, Trouble("again", "no answer"), 2.0)
    transfers.tick(10.0)
    transfers.failed(1, Trouble("fatal", "no such collection"), 10.0)
    for now in (20.0, 2.0 + ENDED_S - 1):
        assert transfers.tick(now) == [core.Find(1, "ann", "first")]
        transfers.failed(1, Trouble("fatal", "you may not look"), now)
        assert states(transfers) == ["prepared"]
    transfers.tick(1000.0)
    transfers.failed(1, Trouble("fatal", "you may not look"), 1000.0)
    assert (states(transfers), transfers.deliveries()[0].why) == (["failed"], "no such collection")
