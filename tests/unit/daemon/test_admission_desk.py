"""Who is let in: the desk alone, without a socket."""

from __future__ import annotations

import hashlib
from math import inf

import pytest

from hpcserve.auth.keys import to_z85
from hpcserve.daemon.admission.desk import BROKER_S, CONTROLLER_S, DEFAULT_LIMITS, Desk, Limits
from hpcserve.types import Epoch, PilotId
from hpcserve.wire.frames import encode
from hpcserve.wire.hub import (
    AdmitKey,
    BrokerUp,
    Done,
    EnrolAsk,
    EnrolVerdict,
    Identity,
    PilotSecrets,
    RevokeKey,
    ToBroker,
)
from hpcserve.wire.messages import Enrol, Enrolled, ErrorInfo, Hello, Refused, Welcome

ADA, BEN, EVE = (bytes([number]) * 32 for number in range(3))
HELLO = encode(Hello((1,), "client 1"))
ENROL = encode(Enrol((1,), "agent 1", PilotId("p1"), "p1.1", "secret", "node1"))
UP = BrokerUp(Epoch(1))
SECRETS = PilotSecrets({"p1": hashlib.sha256(b"secret").hexdigest()})
STRUCK_OFF = ErrorInfo("unauthenticated", "this key was taken out of the service's list")


def admit(key: bytes, name: str) -> AdmitKey:
    """What a broker is told of a key of the list that nobody waits for."""
    return AdmitKey(key, "client", name, 0, Identity(name, to_z85(key)))


class Office:
    """A desk, its list of keys and what it said."""

    def __init__(self, *, admitted: tuple[bytes, ...] = (), limits: Limits = DEFAULT_LIMITS, up: bool = True) -> None:
        self.names: dict[bytes, str] = {ADA: "ada", BEN: "ben"}
        self.desk = Desk(
            self.names.get, admitted=dict.fromkeys(admitted, inf), software="daemon 1", now=0, limits=limits
        )
        if up:
            self.desk.broker_says(UP)

    def answers(self, connection: bytes = b"c") -> list[object]:
        return [reply.message for reply in self.desk.take_replies() if reply.to == connection]

    def refusal(self, connection: bytes = b"c") -> ErrorInfo:
        (answer,) = self.answers(connection)
        assert isinstance(answer, Refused)
        return answer.error

    def asks(self) -> list[ToBroker]:
        return self.desk.take_for_broker()


def test_a_known_key_is_welcome_once_the_broker_knows_it() -> None:
    office = Office()
    office.desk.said(b"c", ADA, [HELLO], 0)
    (ask,) = office.asks()
    assert ask == AdmitKey(ADA, "client", "ada", 1, Identity("ada", to_z85(ADA)))
    assert office.answers() == []
    office.desk.broker_says(Done(1))
    assert office.answers() == [Welcome(1, "daemon 1", "ada")]
    office.desk.broker_says(Done(1))
    assert office.answers() == []


def test_a_stranger_is_told_how_to_be_let_in() -> None:
    office = Office()
    office.desk.said(b"c", EVE, [HELLO], 0)
    refusal = office.refusal()
    assert refusal.code == "unauthenticated"
    assert refusal.message.endswith(f"YOUR-NAME {to_z85(EVE)}")
    assert office.asks() == []


def test_versions_too_far_apart_are_refused() -> None:
    office = Office()
    office.desk.said(b"c", ADA, [encode(Hello((999,), "client 9"))], 0)
    assert office.refusal().code == "version_mismatch"
    office.desk.said(b"c", ADA, [encode(Hello(tuple(range(100, 9000)), "x" * 9000))], 0)
    assert len(office.refusal().message) < 1000


@pytest.mark.parametrize("frames", [[b""], [b"\xc1"], [HELLO, b""], [HELLO[:-1]], [encode(UP)], [b"\x91" * 60000]])
def test_what_is_malformed_is_refused(frames: list[bytes]) -> None:
    office = Office()
    for key in (ADA, EVE):
        office.desk.said(b"c", key, frames, 0)
        assert office.refusal().code == "protocol"


def test_without_a_broker_a_client_is_told_to_come_back() -> None:
    office = Office(up=False)
    office.desk.said(b"c", ADA, [HELLO], 0)
    assert office.desk.due == BROKER_S
    office.desk.tick(BROKER_S - 0.1)
    assert office.answers() == []
    office.desk.tick(BROKER_S)
    refusal = office.refusal()
    assert (refusal.code, refusal.retry_after_ms) == ("unavailable", 1000)
    assert office.desk.due == float("inf")
    office.desk.broker_says(Done(1))
    assert office.answers() == []


def test_a_broker_that_comes_in_time_hears_of_those_who_wait() -> None:
    office = Office()
    office.desk.said(b"c", ADA, [HELLO], 0)
    office.asks()
    office.desk.broker_is_gone()
    assert office.answers() == []
    office.desk.broker_says(BrokerUp(Epoch(2)))
    (again,) = office.asks()
    assert isinstance(again, AdmitKey)
    office.desk.broker_says(Done(again.ticket))
    assert office.answers() == [Welcome(1, "daemon 1", "ada")]


def test_a_new_broker_is_told_every_key() -> None:
    office = Office()
    for key in (ADA, BEN):
        office.desk.said(b"c", key, [HELLO], 0)
    for ask in office.asks():
        assert isinstance(ask, AdmitKey)
        office.desk.broker_says(Done(ask.ticket))
    office.desk.broker_says(BrokerUp(Epoch(2)))
    assert office.asks() == [admit(ADA, "ada"), admit(BEN, "ben")]


def test_a_key_that_is_struck_off_is_put_out() -> None:
    office = Office()
    office.desk.said(b"c", ADA, [HELLO], 0)
    office.asks()
    office.desk.revoke_strangers()
    assert office.asks() == []
    del office.names[ADA]
    office.desk.revoke_strangers()
    assert office.asks() == [RevokeKey(ADA, STRUCK_OFF)]
    office.desk.revoke_strangers()
    assert office.asks() == []
    office.desk.said(b"c", ADA, [HELLO], 0)
    assert office.refusal().code == "unauthenticated"


def test_a_key_that_was_struck_off_while_admission_was_away_is_put_out() -> None:
    office = Office(admitted=(ADA, EVE), up=False)
    office.desk.revoke_strangers()
    assert office.asks() == []
    office.desk.broker_says(UP)
    assert office.asks() == [RevokeKey(EVE, STRUCK_OFF), admit(ADA, "ada")]


def test_an_agent_is_the_controllers_to_judge() -> None:
    office = Office()
    office.desk.said(b"a", EVE, [ENROL], 0)
    assert office.asks() == [EnrolAsk(1, EVE, "p1", "p1.1", "secret", "node1")]
    office.desk.broker_says(EnrolVerdict(1))
    assert office.answers(b"a") == [Enrolled(1, "daemon 1")]
    office.desk.said(b"a", EVE, [ENROL], 0)
    error = ErrorInfo("unauthenticated", "not this one")
    office.desk.broker_says(EnrolVerdict(2, error))
    assert office.refusal(b"a") == error


def test_an_agent_without_an_answer_is_told_to_come_back() -> None:
    office = Office()
    office.desk.said(b"a", EVE, [ENROL], 0)
    office.desk.tick(CONTROLLER_S)
    assert office.refusal(b"a").code == "unavailable"
    office.desk.said(b"a", EVE, [ENROL], 10)
    office.desk.broker_is_gone()
    assert office.refusal(b"a").code == "unavailable"
    office.desk.said(b"a", EVE, [ENROL], 20)
    assert office.refusal(b"a").code == "unavailable"


def test_an_answer_of_the_wrong_kind_lets_nobody_in() -> None:
    office = Office()
    office.desk.said(b"a", EVE, [ENROL], 0)
    office.desk.said(b"c", ADA, [HELLO], 0)
    office.desk.broker_says(Done(1))
    office.desk.broker_says(EnrolVerdict(2))
    office.desk.broker_says(Done(77))
    assert office.desk.take_replies() == []


def test_one_key_that_asks_too_often_is_told_when_to_come_back() -> None:
    office = Office(limits=Limits(known=(2.0, 3.0)))
    for _ in range(4):
        office.desk.said(b"c", ADA, [HELLO], 0)
    refusal = office.refusal()
    assert (refusal.code, refusal.retry_after_ms) == ("overloaded", 500)
    assert len(office.asks()) == 3


def test_that_a_stranger_asks_too_often_is_not_written_and_that_a_known_key_does_is() -> None:
    office = Office(limits=Limits(known=(1.0, 1.0), stranger=(1.0, 1.0)))
    for _ in range(3):
        office.desk.said(b"s", EVE, [HELLO], 0)
    assert len(office.desk.take_records()) == 1
    for _ in range(3):
        office.desk.said(b"c", ADA, [HELLO], 0)
    assert [line.allowed for line in office.desk.take_records()] == [True, False, False]


def test_a_flood_of_strangers_does_not_reach_known_keys_nor_agents() -> None:
    office = Office(limits=Limits(strangers=(10.0, 20.0)))
    for number in range(10_000, 11_000):
        office.desk.said(b"flood", number.to_bytes(32, "big"), [HELLO], 0)
    assert len(office.desk.take_replies()) == 20, "the others are not worth an answer"
    office.desk.said(b"c", ADA, [HELLO], 0)
    office.desk.said(b"a", EVE, [ENROL], 0)
    assert [type(ask) for ask in office.asks()] == [AdmitKey, EnrolAsk]


@pytest.mark.parametrize("pilot", ["p1", "p2"])
def test_a_flood_of_enrols_with_ever_new_keys_keeps_no_pilot_out(pilot: str) -> None:
    office = Office()
    office.desk.broker_says(SECRETS)
    false = encode(Enrol((1,), "agent 1", PilotId(pilot), "p1.1", "guessed", "node1"))
    for number in range(10_000, 11_000):
        office.desk.said(b"flood", number.to_bytes(32, "big"), [false], 0)
    assert len(office.asks()) == 500
    refusals = [answer for answer in office.answers(b"flood") if isinstance(answer, Refused)]
    assert [refusal.error.code for refusal in refusals] == ["overloaded"] * 500
    office.desk.said(b"a", EVE, [ENROL], 0)
    assert office.asks() == [EnrolAsk(501, EVE, "p1", "p1.1", "secret", "node1")]


def test_a_pilot_that_asks_too_often_is_told_when_to_come_back() -> None:
    office = Office(limits=Limits(pilot=(2.0, 3.0)))
    office.desk.broker_says(SECRETS)
    for number in range(4):
        office.desk.said(b"a", bytes([100 + number]) * 32, [ENROL], 0)
    refusal = office.refusal(b"a")
    assert (refusal.code, refusal.retry_after_ms) == ("overloaded", 500)
    assert len(office.asks()) == 3


def test_a_pilot_that_has_ended_is_charged_like_any_stranger() -> None:
    office = Office(limits=Limits(enrols=(1.0, 1.0)))
    office.desk.broker_says(SECRETS)
    office.desk.broker_says(PilotSecrets({}))
    for number in range(2):
        office.desk.said(b"a", bytes([100 + number]) * 32, [ENROL], 0)
    assert office.refusal(b"a").message == "too many agents enrol at once"
