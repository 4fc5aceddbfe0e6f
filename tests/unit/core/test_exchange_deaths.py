"""What the broker decides when replicas die, hang or retire, and when deployments and sessions end."""

from __future__ import annotations

import pytest

from hpcserve.core import actions as act
from hpcserve.core.ledger import State
from hpcserve.errors import (
    DeploymentFailed,
    OutcomeUnknown,
    PoisonRequest,
    UnknownEndpoint,
)
from hpcserve.types import Counter, ReplicaId, SessionId
from tests.unit.core.exchange_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


# --- dead and hanging replicas -----------------------------------------------------------------------------


def test_a_lost_replica_s_requests_keep_their_place(desk: Desk) -> None:
    desk.serve("a", credit=2)
    session = desk.client()
    for id in (1, 2, 3):
        desk.ask(session, id)
    assert desk.given() == [("a", 1), ("a", 2)]
    desk.route("b")
    desk.inventory("b", credit=3)
    assert desk.given() == [("b", 1), ("b", 2), ("b", 3)]
    assert desk.exchange.counts.requeued == 2


def test_suspects_run_alone_and_nothing_else_is_given_meanwhile(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    for id in (1, 2, 3):
        desk.ask(session, id)
    desk.given()
    desk.route("b", crashed="a")
    desk.inventory("b")
    assert desk.given() == [("b", 1)]
    desk.answer("b", (session.id, Counter(1)))
    assert desk.given() == [("b", 2)]
    desk.answer("b", (session.id, Counter(2)))
    assert desk.given() == [("b", 3)]
    desk.ask(session, 4)
    assert desk.given() == [("b", 4)], "what waited unharmed is nobody's suspect"


def test_a_busy_replica_is_emptied_for_a_suspect(desk: Desk) -> None:
    desk.serve("a", "b", credit=2)
    session = desk.client()
    desk.ask(session, 1)
    desk.ask(session, 2)
    assert desk.given() == [("a", 1), ("b", 2)]
    desk.route("b", crashed="a")
    desk.ask(session, 3)
    assert desk.given() == [], "b still runs another request"
    desk.answer("b", (session.id, Counter(2)))
    assert desk.given() == [("b", 1)]
    desk.answer("b", (session.id, Counter(1)))
    assert desk.given() == [("b", 3)]


def test_other_replicas_work_on_while_a_suspect_runs(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.ask(session, 1)
    desk.given()
    desk.route("b", "c", crashed="a")
    desk.inventory("b")
    desk.inventory("c")
    for id in (2, 3):
        desk.ask(session, id)
    assert desk.given() == [("b", 1), ("c", 2), ("c", 3)]


def test_a_suspect_whose_replica_dies_while_it_runs_alone_is_poison(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.ask(session, 1)
    desk.route("b", crashed="a")
    desk.inventory("b")
    desk.route(crashed="b")
    error = desk.error()
    assert isinstance(error, PoisonRequest)
    end = "b ran nothing else (exit code 3); see: hpcserve logs b"
    assert error.message == f"a second replica died of this request: {end}"
    assert desk.states(session) == {1: State.FAILED}


def test_batch_mates_are_never_convicted(desk: Desk) -> None:
    """Both were in the batch that crashed; only the one that crashes alone is guilty."""
    desk.serve("a")
    session = desk.client()
    for id in (1, 2):
        desk.ask(session, id)
    desk.route("b", crashed="a")
    desk.inventory("b")
    desk.route("c", crashed="b")
    desk.inventory("c")
    assert [(id, type(error)) for id, error in desk.told()] == [(1, PoisonRequest)]
    desk.answer("c", (session.id, Counter(2)))
    assert desk.forwarded() == [2]


def test_one_crash_convicts_nobody(desk: Desk) -> None:
    """Not even a request that was alone: a process may die of anything, once."""
    desk.serve("a")
    session = desk.client()
    desk.ask(session, 1)
    desk.route("b", crashed="a")
    desk.inventory("b")
    assert desk.told() == []
    assert desk.given() == [("a", 1), ("b", 1)]


def test_a_suspect_is_not_convicted_by_a_lost_pilot(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.ask(session, 1)
    desk.route("b", crashed="a")
    desk.inventory("b")
    desk.route("c")
    desk.inventory("c")
    assert desk.told() == []
    assert desk.given() == [("a", 1), ("b", 1), ("c", 1)]


def test_a_suspect_that_shares_its_replica_is_not_convicted(desk: Desk) -> None:
    """A replica that reports late may hold a suspect beside other work."""
    desk.serve("a")
    session = desk.client()
    suspect = desk.ask(session, 1)
    desk.route("b", crashed="a")
    desk.inventory("b", unfinished=(suspect, (session.id, Counter(9))))
    assert desk.states(session)[1] is State.RUNNING
    desk.route("c", crashed="b")
    assert desk.told() == []
    assert desk.states(session)[1] is State.QUEUED


def test_the_rest_waits_on_though_a_suspect_is_taken_back(desk: Desk) -> None:
    """Its replica still runs it, so nothing is put beside it until it has let go."""
    desk.serve("a")
    session = desk.client()
    suspect = desk.ask(session, 1)
    desk.route("b", crashed="a")
    desk.inventory("b")
    desk.ack(session, 1, 1)
    desk.ask(session, 2)
    assert desk.given() == [("a", 1), ("b", 1)]
    desk.answer("b", suspect)
    assert desk.given() == [("b", 2)]


def test_the_rest_goes_on_when_a_suspect_s_deadline_passes(desk: Desk) -> None:
    desk.serve("a", "b")
    session = desk.client()
    desk.ask(session, 1, remaining_ms=3000)
    desk.ask(session, 2)
    desk.route("b", crashed="a")
    desk.ask(session, 3)
    assert desk.given() == [("a", 1), ("b", 2)]
    desk.now = 3.0
    desk.exchange.tick(desk.now)
    assert desk.given() == [("b", 3)]


def test_a_suspect_beside_unknown_work_is_not_convicted(desk: Desk) -> None:
    """The replica may still compute what it was given in an earlier epoch, and die of that."""
    desk.serve("a")
    session = desk.client()
    desk.ask(session, 1)
    desk.route("b", crashed="a")
    desk.inventory("b", unfinished=((SessionId(b"away"), Counter(1)),))
    assert desk.given() == [("a", 1), ("b", 1)]
    desk.route("c", crashed="b")
    desk.inventory("c")
    assert desk.told() == []
    desk.route(crashed="c")
    assert isinstance(desk.error(), PoisonRequest)


@pytest.mark.parametrize("crashed", ["", "a"])
def test_what_must_not_run_twice_ends_with_outcome_unknown(desk: Desk, crashed: str) -> None:
    desk.serve("a")
    session = desk.client()
    desk.ask(session, 1, method="pay")
    desk.ask(session, 2)
    desk.given()
    desk.route("b", crashed=crashed)
    ((id, error),) = desk.told()
    assert (id, type(error)) == (1, OutcomeUnknown)
    desk.inventory("b")
    assert desk.given() == [("b", 2)]


def test_what_never_reached_its_replica_is_given_again_whatever_it_is(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    desk.ask(session, 1, method="pay")
    desk.exchange.replica_gone(b"a", desk.now)
    desk.inventory("a", connection=b"a2", fence=0)
    assert desk.took(act.Census) == [act.Census(b"a2", 1)]
    assert desk.given() == [("a", 1)]
    desk.inventory("a", connection=b"a2", fence=1)
    assert desk.given() == [("a2", 1)]
    assert desk.told() == []


def test_a_hung_replica_is_reported(desk: Desk) -> None:
    desk.serve("a", "b")
    session = desk.client()
    desk.ask(session, 1, remaining_ms=1000)
    desk.ask(session, 2)
    desk.exchange.tick(6.0)
    assert desk.took(act.ReportHung) == []
    desk.exchange.tick(6.5)
    assert desk.took(act.ReportHung) == [act.ReportHung(ReplicaId("a"), 5.5)]


def test_what_an_earlier_broker_gave_is_watched_by_the_deadline_in_the_inventory(desk: Desk) -> None:
    desk.now = 100.0
    desk.serve("a", "b")
    desk.client("c", 1, 2)
    desk.inventory("a", unfinished=((SessionId(b"c"), Counter(1)),), remaining_ms=(-1000,))
    desk.inventory("b", unfinished=((SessionId(b"c"), Counter(2)),))
    desk.exchange.tick(104.0)
    assert desk.took(act.ReportHung) == []
    desk.exchange.tick(104.5)
    assert desk.took(act.ReportHung) == [act.ReportHung(ReplicaId("a"), 5.5)]


def test_what_a_client_that_has_not_come_back_waits_for_is_watched_too(desk: Desk) -> None:
    desk.now = 100.0
    desk.serve("a")
    key = SessionId(b"c"), Counter(1)
    desk.inventory("a", unfinished=(key,), remaining_ms=(1000,))
    desk.exchange.tick(106.5)
    assert [each.replica for each in desk.took(act.ReportHung)] == ["a"]
    desk.answer("a", key)
    desk.exchange.tick(107.5)
    assert desk.took(act.ReportHung) == [], "it has ended"


@pytest.mark.parametrize("epoch", ["this", "an earlier one"])
def test_who_waits_behind_a_long_request_does_not_make_its_replica_hang(desk: Desk, epoch: str) -> None:
    desk.now = 100.0
    desk.serve("a")
    if epoch == "this":
        session = desk.client()
        desk.ask(session, 1)
        desk.ask(session, 2, remaining_ms=1000)
        assert desk.given() == [("a", 1), ("a", 2)]
    else:
        desk.client("c", 2)
        keys = (SessionId(b"d"), Counter(1)), (SessionId(b"c"), Counter(2))
        desk.inventory("a", unfinished=keys, remaining_ms=(None, 1000))
    desk.exchange.tick(120.0)
    assert desk.took(act.ReportHung) == []


def test_a_replica_that_has_been_silent_for_long_is_asked_what_it_holds(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.given()
    desk.exchange.tick(30.0)
    assert desk.took(act.Census) == []
    desk.exchange.tick(30.5)
    desk.exchange.tick(31.0)
    assert desk.took(act.Census) == [act.Census(b"a", 1)]
    desk.now = 31.0
    desk.inventory("a", finished=(key,), fence=1)
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (key,))]


def test_an_answer_of_another_replica_counts(desk: Desk) -> None:
    """The first result wins; the replica that works on it still is told to let go."""
    desk.route("a", "b")
    desk.inventory("a")
    desk.now = 10.0
    desk.exchange.tick(desk.now)
    session = desk.client("c", 1)
    desk.ask(session, 1)
    assert desk.given() == [("a", 1)]
    key = (session.id, Counter(1))
    desk.inventory("b", unfinished=(key,))
    desk.answer("b", key)
    assert desk.forwarded() == [1]
    desk.answer("a", key)
    assert desk.forwarded() == []
    desk.exchange.flush()
    assert {action.connection for action in desk.took(act.Release)} == {b"a", b"b"}


# --- retiring, undeploying, lingering ----------------------------------------------------------------------


def test_a_retiring_replica_gets_nothing_and_is_reported_when_idle(desk: Desk) -> None:
    desk.serve("a", "b")
    session = desk.client()
    key = desk.ask(session, 1)
    desk.route("a", "b", retiring="a")
    for id in (2, 3, 4):
        desk.ask(session, id)
    assert desk.given() == [("a", 1), ("b", 2), ("b", 3)]
    desk.exchange.tick(1.0)
    assert desk.took(act.ReportIdle) == []
    desk.answer("a", key)
    desk.exchange.tick(2.0)
    assert desk.took(act.ReportIdle) == [], "it keeps a result that is not acknowledged"
    desk.ack(session, 2)
    desk.exchange.tick(3.0)
    assert desk.took(act.ReportIdle) == [act.ReportIdle(ReplicaId("a"))]


def test_a_retiring_replica_that_a_new_broker_has_not_heard_is_not_called_idle(desk: Desk) -> None:
    desk.route("a", retiring="a")
    desk.exchange.tick(1.0)
    assert desk.took(act.ReportIdle) == []
    desk.inventory("a")
    desk.exchange.tick(2.0)
    assert desk.took(act.ReportIdle) == [act.ReportIdle(ReplicaId("a"))]


def test_undeploying_fails_what_is_queued(desk: Desk) -> None:
    desk.serve("a", credit=1)
    session = desk.client()
    for id in (1, 2):
        desk.ask(session, id)
    desk.exchange.route({}, [], now=desk.now)
    assert [(id, type(error)) for id, error in desk.told()] == [(1, UnknownEndpoint), (2, UnknownEndpoint)]
    assert desk.exchange.queued == 0
    desk.ask(session, 3)
    assert isinstance(desk.error(), UnknownEndpoint)


def test_a_deployment_that_fails_later_fails_what_is_queued(desk: Desk) -> None:
    desk.serve()
    session = desk.client()
    desk.ask(session, 1)
    desk.route(error=DeploymentFailed("setup raised"))
    assert isinstance(desk.error(), DeploymentFailed)


def test_a_session_lingers_and_is_then_forgotten(desk: Desk) -> None:
    desk.serve("a", credit=1)
    session = desk.client()
    key = desk.ask(session, 1)
    desk.ask(session, 2)
    desk.exchange.client_gone(b"c", 5.0)
    desk.exchange.tick(64.9)
    assert desk.states(session) == {1: State.RUNNING, 2: State.QUEUED}
    desk.now = 65.0
    desk.exchange.tick(desk.now)
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", (key,))]
    assert desk.exchange.queued == 0
    desk.exchange.dropped(desk.replica("a"), key, credit=(1, 1000), now=desk.now)
    desk.exchange.tick(66.0)
    assert desk.exchange.sessions == {}


def test_a_client_that_comes_back_after_its_session_was_given_up_is_served(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    key, other = desk.ask(session, 1), desk.ask(session, 2, method="pay")
    desk.exchange.client_gone(b"c", 0.0)
    desk.exchange.tick(60.0)
    desk.inventory("a", unfinished=(key,), fence=2)
    assert desk.states(session) == {1: State.ABANDONED}
    again = desk.client("c", 1, 2, connection="new")
    assert desk.took(act.Fetch) == [act.Fetch(b"a", (key,))]
    assert desk.took(act.Ask) == [act.Ask(b"new", (other[1],))]
    desk.answer("a", key)
    assert desk.forwarded() == [1]
    desk.ask(again, 2, method="pay")
    assert isinstance(desk.error(), OutcomeUnknown), "it may have run while nobody waited"


def test_bye_settles_everything(desk: Desk) -> None:
    desk.serve("a", credit=1)
    session = desk.client()
    done = desk.ask(session, 1)
    desk.answer("a", done, credit=1)
    desk.ask(session, 2)
    desk.ask(session, 3)
    desk.exchange.bye(session, desk.now)
    assert desk.exchange.session_of(b"c") is None
    assert desk.states(session) == {2: State.ABANDONED}
    assert (session.held_bytes, session.sent_bytes, desk.exchange.queued) == (0, 0, 0)


def test_what_a_gone_client_said_last_counts(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client()
    keys = [desk.ask(session, id) for id in (1, 2)]
    desk.exchange.client_gone(b"c", desk.now)
    assert desk.exchange.session_of(b"c") is None
    left = desk.exchange.left_by(b"c")
    assert left is session
    desk.ack(left, 2)
    assert desk.states(session) == {1: State.ABANDONED, 2: State.RUNNING}
    desk.exchange.bye(left, desk.now)
    assert desk.states(session) == {1: State.ABANDONED, 2: State.ABANDONED}
    assert desk.exchange.left_by(b"c") is None
    desk.exchange.flush()
    assert desk.took(act.Release) == [act.Release(b"a", tuple(keys))]


def test_what_was_said_on_an_old_connection_does_not_count(desk: Desk) -> None:
    desk.serve("a")
    session = desk.client("c", connection="old")
    desk.exchange.client_gone(b"old", desk.now)
    assert desk.client("c", connection="new") is session
    assert desk.exchange.left_by(b"old") is None
    desk.exchange.client_gone(b"new", desk.now)
    assert (desk.exchange.left_by(b"old"), desk.exchange.left_by(b"new")) == (None, session)
    assert desk.client("d", connection="new") is desk.exchange.session_of(b"new")
    assert desk.exchange.left_by(b"new") is None, "another speaks there"


def test_a_forgotten_session_is_not_found_by_its_connection(desk: Desk) -> None:
    desk.client()
    desk.exchange.client_gone(b"c", 5.0)
    desk.exchange.tick(65.0)
    assert desk.exchange.left_by(b"c") is None


def test_probe_names_every_connection(desk: Desk) -> None:
    desk.serve()
    desk.client("c")
    desk.client("d")
    desk.exchange.client_gone(b"d", desk.now)
    desk.exchange.probe()
    assert desk.took(act.Probe) == [act.Probe(b"c")]


def test_a_connection_speaks_for_one_session(desk: Desk) -> None:
    desk.serve()
    first = desk.client("c", connection="x")
    second = desk.client("d", connection="x")
    assert desk.exchange.session_of(b"x") is second
    assert first.connection is None
    desk.exchange.client_gone(b"x", desk.now)
    assert second.connection is None
