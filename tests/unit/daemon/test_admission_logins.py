"""Who is let in with a token: the desk, without a socket and without Globus."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from hpcserve.auth.keys import to_z85
from hpcserve.core.access import Policy, Servable, decide
from hpcserve.core.access import Rules as AccessRules
from hpcserve.core.claims import Person, Rules
from hpcserve.core.tokens import Ages, Checked, Question, Tokens
from hpcserve.daemon.access import caller_of
from hpcserve.daemon.admission.desk import DEFAULT_LIMITS, Desk, Limits
from hpcserve.daemon.admission.logins import MOST_ASKED, WAIT_S, Logins, digest_of
from hpcserve.daemon.audit import Record
from hpcserve.errors import AuthenticationError, LoginRequired, PermissionDenied, ServiceUnavailable
from hpcserve.types import Epoch
from hpcserve.wire.frames import encode
from hpcserve.wire.hub import AdmitKey, BrokerUp, Done, GroupsCount, Identity, RevokeKey
from hpcserve.wire.messages import ErrorInfo, Hello, Refused, Welcome

KEY, OTHER_KEY, THIRD_KEY = (bytes([number]) * 32 for number in range(3))
RULES = Rules(client_id="c", login_client_id="n", scope="s", issuer="i")
DOWN = Checked(error=ServiceUnavailable("Globus Auth gives no answer", retry_after_s=2.0))


def person(name: str, *linked: str) -> Person:
    linked = (f"{name}-id", *linked)
    return Person(id=f"{name}-id", name=f"{name}@lab.gov", domain="lab.gov", linked=linked, expires_at=0)


def good(name: str, *linked: str, expires_in_s: float = 3600.0, groups: tuple[str, ...] | None = ("g",)) -> Checked:
    return Checked(person(name, *linked), expires_in_s, groups)


class Office:
    """A desk that wants logins, a broker that does what it is told, and a Globus that knows these tokens."""

    def __init__(
        self,
        *,
        limits: Limits = DEFAULT_LIMITS,
        keys_per_identity: int = 10,
        rate: tuple[float, float] = (500.0, 5000.0),
        admitted: dict[bytes, float] | None = None,
        asks_groups: bool = True,
    ) -> None:
        tokens = Tokens(RULES, Ages(60.0, 300.0), asks_groups=asks_groups)
        self.known: dict[str, Checked] = {"ada-1": good("ada"), "ada-2": good("ada"), "ben-1": good("ben")}
        self.asked: list[str] = []
        self.said: list[tuple[bytes, object]] = []
        self.now = 0.0
        self.keys: dict[bytes, Identity | None] = {}
        self.desk = Desk(
            lambda key: "on the list",
            admitted=admitted or {},
            software="daemon 1",
            now=0,
            limits=limits,
            logins=Logins(tokens, RULES, keys_per_identity=keys_per_identity, rate=rate),
        )
        self.desk.broker_says(BrokerUp(Epoch(1)))

    def hello(self, token: str, key: bytes = KEY, connection: bytes = b"c") -> object:
        """What is answered to a HELLO, once Globus and the broker have done their part."""
        self.say(token, key, connection)
        self.settle()
        return self.answers(connection)[-1]

    def say(self, token: str, key: bytes = KEY, connection: bytes = b"c") -> None:
        self.desk.said(connection, key, [encode(Hello((1,), "client 1", token))], self.now, peer="10.0.0.1")

    def settle(self) -> None:
        """Globus answers, and the broker."""
        for question, token in self.desk.take_questions():
            self.answer(question, token)
        for message in self.desk.take_for_broker():
            if isinstance(message, AdmitKey):
                self.keys[message.key] = message.identity
                self.desk.broker_says(Done(message.ticket))
            elif isinstance(message, RevokeKey):
                self.keys.pop(message.key, None)
                self.last_revoked = message

    def answer(self, question: Question, token: str) -> None:
        self.asked.append(token)
        unknown = Checked(error=LoginRequired("the token is not valid"))
        self.desk.heard(question, self.known.get(token, unknown), self.now)

    def answers(self, connection: bytes = b"c") -> list[object]:
        self.said += [(reply.to, reply.message) for reply in self.desk.take_replies()]
        found = [message for to, message in self.said if to == connection]
        self.said = [each for each in self.said if each[0] != connection]
        return found

    def refusal(self, token: str, key: bytes = KEY) -> ErrorInfo:
        answer = self.hello(token, key)
        assert isinstance(answer, Refused)
        return answer.error

    def pass_time(self, until: float) -> None:
        """To this time, with all that is due on the way."""
        while self.desk.due <= until:
            self.now = max(self.now, self.desk.due)
            self.desk.tick(self.now)
            self.settle()
        self.now = until
        self.desk.tick(until)
        self.desk.look(until)
        self.settle()

    def records(self) -> list[Record]:
        return self.desk.take_records()


def test_a_good_token_lets_its_key_in() -> None:
    office = Office()
    assert office.hello("ada-1") == Welcome(1, "daemon 1", "ada@lab.gov", 3600.0)
    digest = digest_of("ada-1")
    assert office.keys == {
        KEY: Identity("ada@lab.gov", to_z85(KEY), "ada-id", "lab.gov", ("g",), ("ada-id",), digest),
    }
    (line,) = office.records()
    assert (line.action, line.allowed, line.by, line.name) == ("hello", True, "globus", "ada@lab.gov")
    assert (line.token_sha256, line.key, line.peer) == (digest, to_z85(KEY), "10.0.0.1")


def test_a_deny_of_a_linked_identity_reaches_who_decides() -> None:
    office = Office()
    names = ("ada@lab.gov", "mal@evil.org")
    office.known["ada-1"] = Checked(replace(person("ada"), linked_names=names), 3600.0)
    office.hello("ada-1")
    identity = office.keys[KEY]
    assert identity is not None
    policy = Policy(call=AccessRules(("*",), ("user:mal@evil.org",)))
    assert not decide(policy, caller_of(identity), "call", Servable()).allowed


def test_no_list_of_keys_lets_in_without_a_token() -> None:
    office = Office()
    refusal = office.refusal("")
    assert refusal.code == "login_required"
    assert refusal.detail is not None
    assert refusal.detail["authorization_parameters"]["required_scopes"] == ["s"]
    assert office.asked == []


@pytest.mark.parametrize("token", ["x" * 9000, "tok\nen", "tökén"])
def test_what_cannot_be_a_token_is_not_asked_about(token: str) -> None:
    office = Office()
    assert office.refusal(token).code == "unauthenticated"
    assert office.asked == []


def test_a_refused_token_is_asked_about_once_in_a_while_only() -> None:
    office = Office()
    for _ in range(5):
        assert office.refusal("forged").code == "login_required"
    assert office.asked == ["forged"]
    assert {(line.allowed, line.token_sha256) for line in office.records()} == {(False, digest_of("forged"))}


def test_nothing_of_a_token_is_written_but_its_digest() -> None:
    office = Office()
    office.hello("ada-1")
    office.refusal("forged-token")
    assert not any(secret in repr(office.records()) for secret in ("ada-1", "forged-token"))


def test_a_thousand_that_come_at_once_with_one_token_cost_one_question() -> None:
    office = Office(keys_per_identity=1000, limits=Limits(strangers=(200.0, 5000.0)))
    for number in range(1000):
        office.say("ada-1", number.to_bytes(32, "big"), number.to_bytes(5, "big"))
    office.settle()
    welcome = Welcome(1, "daemon 1", "ada@lab.gov", 3600.0)
    assert all(office.answers(number.to_bytes(5, "big")) == [welcome] for number in range(1000))
    assert office.asked == ["ada-1"]


def test_who_stays_in_is_asked_about_once_a_period() -> None:
    office = Office()
    office.hello("ada-1")
    office.pass_time(499)
    assert len(office.asked) == 10
    assert KEY in office.keys


def test_who_is_in_is_asked_about_at_once_when_a_rule_first_names_a_group() -> None:
    office = Office(asks_groups=False)
    office.known["ada-1"] = good("ada", groups=None)
    office.hello("ada-1")
    office.known["ada-1"] = good("ada")
    office.desk.broker_says(GroupsCount(count=True))
    office.settle()
    office.settle()  # what came of it
    identity = office.keys[KEY]
    assert identity is not None
    assert identity.groups == ("g",)
    for count in (True, False):
        office.desk.broker_says(GroupsCount(count))
        office.settle()
    assert office.asked == ["ada-1", "ada-1"], "no more"


def test_a_revoked_token_puts_its_keys_out_within_the_age_of_an_answer() -> None:
    office = Office()
    office.hello("ada-1")
    office.hello("ada-1", OTHER_KEY)
    office.hello("ben-1", THIRD_KEY)
    office.known["ada-1"] = Checked(error=LoginRequired("revoked"))
    office.pass_time(60)
    assert set(office.keys) == {THIRD_KEY}
    assert office.last_revoked.error is not None
    assert office.last_revoked.error.code == "login_required"
    assert [line.action for line in office.records()].count("put-out") == 2


def test_when_globus_is_down_those_who_are_in_stay_to_the_end_of_their_answer() -> None:
    office = Office()
    office.hello("ada-1")
    office.known = {"ada-1": DOWN, "ben-1": DOWN}
    office.pass_time(59.9)
    assert KEY in office.keys
    refusal = office.refusal("ben-1", OTHER_KEY)
    assert (refusal.code, refusal.retry_after_ms) == ("unavailable", 2000)
    office.pass_time(60.1)
    assert office.keys == {}
    assert office.last_revoked.error is not None
    assert office.last_revoked.error.code == "unavailable", "its client comes back, and resumes"
    office.known = {"ada-1": good("ada")}
    office.pass_time(62)
    assert isinstance(office.hello("ada-1"), Welcome)


def test_globus_that_comes_back_in_time_is_not_noticed() -> None:
    office = Office()
    office.hello("ada-1")
    office.known = {"ada-1": DOWN}
    office.pass_time(55)
    office.known = {"ada-1": good("ada")}
    office.pass_time(100)
    assert KEY in office.keys


def test_a_key_is_put_out_when_its_token_ends() -> None:
    office = Office()
    office.known["short"] = good("ada", expires_in_s=30.0)
    assert office.hello("short") == Welcome(1, "daemon 1", "ada@lab.gov", 30.0)
    office.pass_time(30)
    assert office.keys == {}
    assert office.last_revoked.error is not None
    assert office.last_revoked.error.code == "login_required"


def test_a_new_token_in_time_keeps_a_key_in() -> None:
    office = Office()
    office.known["short"] = good("ada", expires_in_s=30.0)
    office.hello("short")
    office.pass_time(25)
    assert isinstance(office.hello("ada-2"), Welcome)
    office.pass_time(400)
    identity = office.keys[KEY]
    assert identity is not None
    assert identity.token_sha256 == digest_of("ada-2")
    assert "short" not in office.asked[2:], "nobody asks about a token that was replaced"


def test_another_persons_token_is_refused_by_a_key_in_use() -> None:
    office = Office()
    office.hello("ada-1")
    refusal = office.refusal("ben-1")
    assert refusal.code == "conflict"
    assert "ada@lab.gov" in refusal.message
    identity = office.keys[KEY]
    assert identity is not None
    assert identity.name == "ada@lab.gov"
    office.known["ada-1"] = Checked(error=LoginRequired("revoked"))
    office.pass_time(60)
    assert isinstance(office.hello("ben-1"), Welcome), "the key is free again"


def test_a_linked_identity_is_the_same_person() -> None:
    office = Office()
    office.hello("ada-1")
    office.known["ada-home"] = good("ada_home", "ada-id")
    assert isinstance(office.hello("ada-home"), Welcome)


def test_a_token_that_is_replayed_with_other_keys_counts_against_its_owner() -> None:
    office = Office(keys_per_identity=2)
    office.hello("ada-1")
    office.hello("ada-1", OTHER_KEY)
    assert office.refusal("ada-1", THIRD_KEY).code == "overloaded"
    assert isinstance(office.hello("ada-2", OTHER_KEY), Welcome), "a key that is in stays in"


def test_one_identity_may_not_say_hello_all_the_time() -> None:
    office = Office(rate=(1.0, 3.0))
    for number in range(3):
        assert isinstance(office.hello("ada-1", bytes([number]) * 32), Welcome)
    refusal = office.refusal("ada-2", THIRD_KEY)
    assert (refusal.code, refusal.retry_after_ms) == ("overloaded", 1000)


def test_a_flood_of_new_tokens_is_bounded_and_those_who_are_in_are_not_affected() -> None:
    office = Office(limits=Limits(strangers=(10.0, 20.0)))
    office.hello("ada-1")
    for number in range(10_000, 11_000):
        office.say(f"forged-{number}", number.to_bytes(32, "big"), b"flood")
    assert len(office.desk.take_questions()) == 19
    assert isinstance(office.hello("ada-1"), Welcome)


def test_who_is_in_renews_and_comes_with_another_token_while_strangers_ask_all_they_may() -> None:
    office = Office(limits=Limits(strangers=(1.0, 2 * MOST_ASKED), askers=100_000))
    office.hello("ada-1")
    for number in range(10_000, 10_000 + 3 * MOST_ASKED):
        office.say(f"forged-{number}", number.to_bytes(32, "big"), b"flood")
    assert {(question.first, question.until) for question, _ in office.desk.take_questions()} == {(False, WAIT_S)}
    office.say("ada-2")
    ((question, token),) = office.desk.take_questions()
    assert (question.first, token) == (True, "ada-2")
    office.answer(question, token)
    office.settle()
    assert isinstance(office.answers()[-1], Welcome)
    while not (asked := office.desk.take_questions()):
        office.now = office.desk.due
        office.desk.tick(office.now)
    ((question, token),) = asked
    assert (question.first, question.until, token) == (True, inf, "ada-2"), "a renewal never gives up its place"


def test_who_is_in_cannot_ask_about_tokens_without_end() -> None:
    office = Office(limits=Limits(returning=(1.0, 5.0)))
    office.hello("ada-1")
    for number in range(50):
        office.say(f"forged-{number}")
    assert len(office.desk.take_questions()) == 5
    overloaded = [each for each in office.answers() if isinstance(each, Refused)]
    assert {each.error.code for each in overloaded} == {"overloaded"}
    assert isinstance(office.hello("ada-1"), Welcome)


def test_many_who_share_a_new_token_ask_once() -> None:
    office = Office(limits=Limits(strangers=(1.0, 1.0)))
    for number in range(200):
        office.say("ada-1", number.to_bytes(32, "big"), number.to_bytes(2, "big"))
    assert len(office.desk.take_questions()) == 1


def test_questions_without_end_are_not_put() -> None:
    office = Office(limits=Limits(strangers=(1e6, 1e6), askers=100_000))
    for number in range(MOST_ASKED + 10):
        office.say(f"forged-{number}", number.to_bytes(32, "big"), b"flood")
    assert len(office.desk.take_questions()) == MOST_ASKED
    assert len(office.answers(b"flood")) == 10


def test_who_waits_too_long_is_told_so_and_the_answer_is_kept() -> None:
    office = Office()
    office.say("ada-1")
    ((question, token),) = office.desk.take_questions()
    office.now = WAIT_S
    office.desk.tick(office.now)
    (refused,) = office.answers()
    assert isinstance(refused, Refused)
    assert refused.error.code == "unavailable"
    office.say("ada-1")
    assert office.desk.take_questions() == []
    office.answer(question, token)
    office.settle()
    assert isinstance(office.answers()[-1], Welcome)


def test_what_becomes_known_later_is_told_to_the_broker() -> None:
    office = Office()
    office.hello("ada-1")
    office.known["ada-1"] = good("ada", groups=("g", "new"))
    office.pass_time(260)
    identity = office.keys[KEY]
    assert identity is not None
    assert identity.groups == ("g", "new")


def test_who_may_not_come_in_at_all_is_told_so() -> None:
    office = Office()
    office.known["eve"] = Checked(error=PermissionDenied("you are in none of the groups"))
    assert office.refusal("eve").code == "permission_denied"
    office.known["wrong"] = Checked(error=AuthenticationError("not for this service"))
    assert office.refusal("wrong").code == "unauthenticated"


def test_those_of_an_earlier_run_are_put_out_when_their_time_is_up_unless_they_came_again() -> None:
    office = Office(admitted={KEY: 30.0, OTHER_KEY: 20.0})
    assert office.desk.until(KEY) == 30.0
    office.hello("ada-1")
    office.pass_time(29)
    assert KEY in office.keys
    assert office.last_revoked.key == OTHER_KEY
    assert office.last_revoked.error is not None
    assert office.last_revoked.error.code == "unavailable"
    office.pass_time(31)
    assert KEY in office.keys
    assert office.desk.until(KEY) == 60.0


def test_a_new_broker_is_told_those_whom_we_know() -> None:
    office = Office(admitted={OTHER_KEY: inf})
    office.hello("ada-1")
    office.desk.tick(20)
    office.desk.broker_says(BrokerUp(Epoch(2)))
    (told,) = office.desk.take_for_broker()
    assert isinstance(told, AdmitKey)
    assert (told.key, told.lasts_s) == (KEY, 40.0)


def test_the_broker_hears_for_how_long_a_key_is_in_and_of_every_renewal() -> None:
    office = Office()
    office.say("ada-1")
    office.answer(*office.desk.take_questions()[0])
    (first,) = office.desk.take_for_broker()
    assert isinstance(first, AdmitKey)
    assert (first.lasts_s, first.ticket) == (60.0, 1)
    office.desk.broker_says(Done(first.ticket))
    office.now = 51.0
    office.desk.tick(51.0)
    office.answer(*office.desk.take_questions()[0])
    (renewed,) = office.desk.take_for_broker()
    assert isinstance(renewed, AdmitKey)
    assert (renewed.lasts_s, renewed.identity) == (60.0, first.identity)


def test_who_is_put_out_while_the_broker_is_away_is_put_out_when_it_is_back() -> None:
    office = Office()
    office.hello("ada-1")
    office.desk.broker_is_gone()
    office.known["ada-1"] = Checked(error=LoginRequired("revoked"))
    office.pass_time(60)
    office.desk.broker_says(BrokerUp(Epoch(1)))
    (message,) = office.desk.take_for_broker()
    assert isinstance(message, RevokeKey)
    assert message.key == KEY
