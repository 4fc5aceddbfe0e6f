"""For how long what Globus said of a token counts, and how often it is asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.claims import Person, Rules
from hpcserve.core.tokens import AGAIN_S, GROUPS_AGAIN_S, RENEW, Ages, Checked, Digest, Question, Standing, Tokens
from hpcserve.errors import AuthenticationError, LoginRequired, PermissionDenied, ServiceUnavailable

ADA = Person(id="ada-id", name="ada@lab.gov", domain="lab.gov", linked=("ada-id",), expires_at=0.0)
TOKEN = Digest("d" * 64)
OPEN = Rules(client_id="c", login_client_id="n", scope="s", issuer="i")
GROUPED = Rules(client_id="c", login_client_id="n", scope="s", issuer="i", groups=("g",))
AGES = Ages(60.0, 300.0)
DOWN = Checked(error=ServiceUnavailable("down"))
REVOKED = Checked(error=LoginRequired("revoked"))


def good(expires_in_s: float = 3600.0, groups: tuple[str, ...] | None = ("g",)) -> Checked:
    return Checked(ADA, expires_in_s, groups)


def asked(tokens: Tokens, now: float) -> Question:
    question = tokens.ask(TOKEN, now)
    assert question is not None
    return question


def known(tokens: Tokens, now: float, checked: Checked) -> None:
    tokens.heard(asked(tokens, now), checked, now)


def test_an_answer_counts_for_its_time_from_when_it_was_asked_for() -> None:
    tokens = Tokens(OPEN, AGES)
    assert tokens.standing(TOKEN, 0) is None
    question = asked(tokens, 0)
    assert question == Question(TOKEN, token=True, groups=True)
    tokens.heard(question, good(), 4)
    standing = Standing(ADA, ("g",), 60, 3604)
    assert tokens.standing(TOKEN, 59.9) == standing
    assert tokens.standing(TOKEN, 60) is None


def test_an_answer_does_not_outlast_its_token() -> None:
    tokens = Tokens(OPEN, AGES)
    known(tokens, 0, good(5.0))
    assert isinstance(tokens.standing(TOKEN, 4.9), Standing)
    assert tokens.standing(TOKEN, 5) is None
    assert tokens.ask(TOKEN, 5) is None
    assert isinstance(tokens.ended(TOKEN, 5), LoginRequired)


def test_one_question_is_under_way_at_a_time() -> None:
    tokens = Tokens(OPEN, AGES)
    question = asked(tokens, 0)
    assert tokens.ask(TOKEN, 1) is None
    tokens.heard(question, good(), 2)
    assert tokens.ask(TOKEN, 49.9) is None
    assert asked(tokens, 50) == Question(TOKEN, token=True, groups=False)


def test_groups_have_an_age_of_their_own() -> None:
    tokens = Tokens(GROUPED, AGES)
    known(tokens, 0, good())
    for now in (50, 100, 150, 200):
        known(tokens, now, good(groups=None))
        assert isinstance(tokens.standing(TOKEN, now), Standing), "what was known of the groups still counts"
    assert asked(tokens, 250) == Question(TOKEN, token=True, groups=True)


def test_groups_that_cannot_be_known_let_nobody_in_where_they_are_demanded() -> None:
    tokens = Tokens(GROUPED, AGES)
    known(tokens, 0, good(groups=None))
    assert isinstance(tokens.standing(TOKEN, 1), ServiceUnavailable)
    assert tokens.ask(TOKEN, AGAIN_S - 0.1) is None
    question = asked(tokens, AGAIN_S)
    assert question == Question(TOKEN, token=False, groups=True), "the token need not be asked about again"
    tokens.heard(question, Checked(groups=("g",)), 11)
    assert isinstance(tokens.standing(TOKEN, 11), Standing)


def test_groups_are_asked_for_soon_again_and_ever_more_seldom_while_nobody_answers() -> None:
    tokens, now, pauses = Tokens(OPEN, Ages(1000.0, 5000.0)), 0.0, []
    known(tokens, now, good(groups=None))
    for _ in range(6):
        pauses.append(tokens.due(TOKEN) - now)
        now = tokens.due(TOKEN)
        tokens.heard(asked(tokens, now), Checked(), now)
    assert pauses == [AGAIN_S, 2 * AGAIN_S, 4 * AGAIN_S, 8 * AGAIN_S, GROUPS_AGAIN_S, GROUPS_AGAIN_S]


def test_groups_that_cannot_be_known_are_unknown_elsewhere() -> None:
    tokens = Tokens(OPEN, AGES)
    known(tokens, 0, good(groups=None))
    standing = tokens.standing(TOKEN, 1)
    assert isinstance(standing, Standing)
    assert standing.groups is None


def test_groups_end_with_their_age() -> None:
    tokens = Tokens(GROUPED, Ages(60.0, 90.0))
    known(tokens, 0, good())
    known(tokens, 50, good())
    question = asked(tokens, 75)
    assert question == Question(TOKEN, token=False, groups=True)
    tokens.heard(question, Checked(), 75)
    assert isinstance(tokens.standing(TOKEN, 89), Standing)
    assert isinstance(tokens.standing(TOKEN, 90), ServiceUnavailable)


def test_who_is_in_no_group_is_told_so() -> None:
    tokens = Tokens(GROUPED, AGES)
    known(tokens, 0, good(groups=("other",)))
    assert isinstance(tokens.standing(TOKEN, 1), PermissionDenied)


def test_when_globus_is_down_the_old_answer_counts_to_its_end() -> None:
    tokens = Tokens(OPEN, AGES)
    known(tokens, 0, good())
    known(tokens, 50, DOWN)
    assert isinstance(tokens.standing(TOKEN, 59.9), Standing)
    assert tokens.due(TOKEN) == 50 + AGAIN_S
    known(tokens, 51, DOWN)
    assert tokens.standing(TOKEN, 60) is None
    assert isinstance(tokens.ended(TOKEN, 60), ServiceUnavailable)


def test_who_is_not_known_is_told_that_globus_is_down() -> None:
    tokens = Tokens(OPEN, AGES)
    known(tokens, 0, DOWN)
    assert tokens.standing(TOKEN, 0.9) == DOWN.error
    assert tokens.ask(TOKEN, 0.9) is None
    assert tokens.standing(TOKEN, AGAIN_S) is None
    known(tokens, AGAIN_S, good())
    assert isinstance(tokens.standing(TOKEN, AGAIN_S), Standing)


def test_a_refusal_ends_what_counted_and_is_not_asked_for_at_once_again() -> None:
    tokens = Tokens(OPEN, AGES)
    known(tokens, 0, good())
    known(tokens, 50, REVOKED)
    assert tokens.standing(TOKEN, 51) == REVOKED.error
    assert tokens.ended(TOKEN, 51) == REVOKED.error
    assert tokens.ask(TOKEN, 59) is None
    assert tokens.standing(TOKEN, 60) is None
    assert asked(tokens, 60).token


def test_an_answer_that_was_not_asked_for_counts_for_nothing() -> None:
    tokens = Tokens(OPEN, AGES)
    tokens.heard(Question(TOKEN, token=True, groups=True), good(), 0)
    assert tokens.standing(TOKEN, 0) is None


def test_what_nobody_uses_is_forgotten() -> None:
    tokens = Tokens(OPEN, AGES)
    known(tokens, 0, good())
    assert tokens.forget(set(), 59) == []
    assert tokens.forget({TOKEN}, 60) == []
    assert tokens.forget(set(), 60) == [TOKEN]
    assert len(tokens) == 0


def test_groups_are_not_asked_for_if_the_site_does_not_want_that() -> None:
    tokens = Tokens(OPEN, AGES, asks_groups=False)
    question = asked(tokens, 0)
    assert question == Question(TOKEN, token=True, groups=False)
    tokens.heard(question, good(groups=None), 0)
    standing = tokens.standing(TOKEN, 1)
    assert isinstance(standing, Standing)
    assert standing.groups is None
    assert tokens.due(TOKEN) == RENEW * AGES.cache_s
    tokens.asks_groups = True
    assert tokens.due(TOKEN) == 0
    assert asked(tokens, 1) == Question(TOKEN, token=False, groups=True)


NO = Checked(error=AuthenticationError("no"))
ANSWERS = st.sampled_from([good(), good(20.0), good(groups=None), DOWN, REVOKED, NO])


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0, 5.0), ANSWERS), max_size=60))
def test_nobody_is_let_in_on_an_old_answer_nor_globus_asked_too_often(
    events: list[tuple[float, float, Checked]],
) -> None:
    tokens, now = Tokens(OPEN, AGES), 0.0
    last_good, asked_well = -1e9, -1e9
    for gap, delay, checked in events:
        now += gap
        standing = tokens.standing(TOKEN, now)
        if isinstance(standing, Standing):
            assert now - last_good < AGES.cache_s
        question = tokens.ask(TOKEN, now)
        if question is None:
            continue
        if question.token:
            assert now - asked_well >= RENEW * AGES.cache_s - 1e-6, "a token that is good: once a period"
            asked_well = now if checked.error is None else -1e9
        began, now = now, now + delay
        tokens.heard(question, checked, now)
        if question.token and checked.error is None:
            last_good = began
        elif checked.error is not None and not checked.error.retryable:
            last_good = asked_well = -1e9
            assert not isinstance(tokens.standing(TOKEN, now), Standing)
