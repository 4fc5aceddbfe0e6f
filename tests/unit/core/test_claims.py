"""Whom Globus's answers let in: closed on all that is missing, wrong, or of another type."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import Any

import pytest
from globus_sdk import gare
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.claims import MFA, Person, Rules, check_groups, judge, login_required, memberships
from hpcserve.errors import AuthenticationError, HpcserveError, LoginRequired, PermissionDenied, ServiceUnavailable

NOW = 1_700_000_000.0
ADA, ADA_HOME, IDP, HOME_IDP = "ada-id", "ada-home-id", "idp-lab", "idp-home"
POLICY, OTHER_POLICY = "policy-1", "policy-2"
RULES = Rules(
    client_id="service",
    login_client_id="native",
    scope="https://auth.globus.org/scopes/service/all",
    issuer="https://auth.globus.org",
    policies=(POLICY,),
    domains=("lab.gov",),
)
GOOD: dict[str, Any] = {
    "active": True,
    "scope": f"openid {RULES.scope}",
    "client_id": "native",
    "username": "ada@lab.gov",
    "sub": ADA,
    "aud": ["service", "native"],
    "iss": "https://auth.globus.org",
    "exp": NOW + 3600,
    "iat": NOW - 60,
    "nbf": NOW - 60,
    "identity_set_detail": [
        {"sub": ADA, "username": "ada@lab.gov", "identity_provider": IDP},
        {"sub": ADA_HOME, "username": "ada@home.org", "identity_provider": HOME_IDP},
    ],
    "session_info": {
        "session_id": "s",
        "authentications": {ADA: {"idp": IDP, "auth_time": NOW - 60, "acr": None, "amr": ["pwd"]}},
    },
    "policy_evaluations": {POLICY: {"evaluation": True}, OTHER_POLICY: {"evaluation": False}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD, with another value at a path such as ``session_info.authentications``."""
    answer = copy.deepcopy(GOOD)
    within = answer
    *outer, last = path.split(".")
    for name in outer:
        within = within[name]
    within[last] = value
    return answer


def paths(value: Any, before: str = "") -> list[str]:
    """Of all that stands in a document of maps."""
    found = []
    for name, inner in value.items() if isinstance(value, dict) else ():
        found += [before + name, *paths(inner, f"{before}{name}.")]
    return found


def refusal(answer: object, rules: Rules = RULES) -> HpcserveError:
    with pytest.raises(HpcserveError) as caught:
        judge(answer, rules, NOW)
    return caught.value


def wanted(error: HpcserveError) -> dict[str, Any]:
    """What login it asks for, as the Globus SDK reads that."""
    assert type(error) is LoginRequired
    assert error.detail["client_id"] == "native"
    assert error.detail["scope"] == RULES.scope
    document = gare.to_gare(error.detail)
    assert document is not None
    return document.authorization_parameters.to_dict()


def test_who_has_all_that_is_demanded_is_let_in() -> None:
    assert judge(GOOD, RULES, NOW) == Person(
        id=ADA,
        name="ada@lab.gov",
        domain="lab.gov",
        linked=(ADA_HOME, ADA),
        expires_at=NOW + 3600,
        linked_names=("ada@home.org", "ada@lab.gov"),
    )


def test_user_names_are_in_lower_case() -> None:
    spelled = [
        {"sub": ADA, "username": "Ada@Lab.gov", "identity_provider": IDP},
        {"sub": ADA_HOME, "username": "ADA@home.org", "identity_provider": HOME_IDP},
    ]
    person = judge(changed("identity_set_detail", spelled), RULES, NOW)
    assert (person.name, person.linked_names) == ("ada@lab.gov", ("ada@home.org", "ada@lab.gov"))


def test_a_linked_identity_without_a_name_lets_nobody_in() -> None:
    unnamed = [*GOOD["identity_set_detail"], {"sub": "x", "identity_provider": HOME_IDP}]
    assert refusal(changed("identity_set_detail", unnamed)).code == "unauthenticated"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("active", False, "not valid"),
        ("active", "true", "not valid"),
        ("exp", NOW, "expired"),
        ("exp", NOW - 1, "expired"),
        ("scope", "openid", "lacks the scope"),
        ("scope", f"{RULES.scope}_more", "lacks the scope"),
        ("scope", RULES.scope[:-1], "lacks the scope"),
        ("session_info.authentications", {}, "no login"),
    ],
)
def test_another_login_mends_it(path: str, value: Any, words: str) -> None:
    error = refusal(changed(path, value))
    assert wanted(error)["required_scopes"] == [RULES.scope]
    assert words in error.message
    assert "hpcserve login" in error.message


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("aud", ["native"], "not for this service"),
        ("aud", ["service2"], "not for this service"),
        ("aud", "service2", "not for this service"),
        ("aud", None, "not for this service"),
        ("iss", "https://auth.example.org", "issued by"),
        ("nbf", NOW + 61, "the service's clock is wrong"),
        ("iat", NOW + 3600, "the service's clock is wrong"),
        ("policy_evaluations", None, "policy_evaluations"),
        ("policy_evaluations", {}, POLICY),
        (f"policy_evaluations.{POLICY}", {}, POLICY),
        (f"policy_evaluations.{POLICY}", {"evaluation": 1}, POLICY),
        (f"policy_evaluations.{POLICY}", {"evaluation": "true"}, POLICY),
        ("exp", "never", "exp"),
        ("exp", float("nan"), "exp"),
        ("exp", float("inf"), "exp"),
        ("exp", True, "exp"),
        ("identity_set_detail", {}, "identity_set_detail"),
        ("identity_set_detail", [1], "an identity"),
    ],
)
def test_no_login_mends_it(path: str, value: Any, words: str) -> None:
    error = refusal(changed(path, value))
    assert type(error) is AuthenticationError
    assert words in error.message


def test_clocks_may_differ_a_little() -> None:
    assert judge(changed("nbf", NOW + 59), RULES, NOW).id == ADA


def test_a_policy_that_is_not_met_asks_for_a_login_that_meets_it() -> None:
    error = refusal(changed(f"policy_evaluations.{POLICY}", {"evaluation": False}))
    assert wanted(error)["session_required_policies"] == [POLICY]


def test_of_several_policies_all_must_be_met() -> None:
    rules = replace(RULES, policies=(POLICY, OTHER_POLICY))
    assert wanted(refusal(GOOD, rules))["session_required_policies"] == [POLICY, OTHER_POLICY]


def test_a_linked_identity_of_the_right_domain_does_not_do() -> None:
    answer = changed("session_info.authentications", {ADA_HOME: {"idp": HOME_IDP, "auth_time": NOW, "amr": []}})
    error = refusal(answer)
    assert wanted(error)["session_required_single_domain"] == ["lab.gov"]
    assert "ada@home.org" in error.message


def test_who_has_logged_in_with_two_identities_is_the_one_that_is_allowed() -> None:
    answer = changed(f"session_info.authentications.{ADA_HOME}", {"idp": HOME_IDP, "auth_time": NOW, "amr": []})
    answer |= {"sub": ADA_HOME, "username": "ada@home.org"}
    assert judge(answer, RULES, NOW).name == "ada@lab.gov"


@pytest.mark.parametrize("login", [{"idp": HOME_IDP, "auth_time": NOW}, {"idp": IDP}, {"auth_time": NOW}, None])
def test_a_login_that_does_not_fit_its_identity_lets_nobody_in(login: object) -> None:
    refusal(changed(f"session_info.authentications.{ADA}", login))


@pytest.mark.parametrize("name", ["ada", "ada@", "@lab.gov", "ada\n@lab.gov", "a da@lab.gov", "ada@lab gov", "", None])
def test_a_name_that_is_none_lets_nobody_in(name: object) -> None:
    answer = copy.deepcopy(GOOD)
    answer["identity_set_detail"][0]["username"] = name
    assert type(refusal(answer)) is AuthenticationError


@pytest.mark.parametrize(("acr", "amr"), [(MFA, []), (None, ["pwd", "mfa"])])
def test_a_second_factor_can_be_demanded(acr: str | None, amr: list[str]) -> None:
    rules = replace(RULES, mfa=True)
    assert wanted(refusal(GOOD, rules))["session_required_mfa"] is True
    login = {"idp": IDP, "auth_time": NOW, "acr": acr, "amr": amr}
    assert judge(changed(f"session_info.authentications.{ADA}", login), rules, NOW).id == ADA


PROGRAM = "aa2c1b3e-0000-4000-8000-000000000001"


def of_a_program(**other: object) -> dict[str, Any]:
    answer = {name: value for name, value in GOOD.items() if name not in ("session_info", "identity_set_detail")}
    name = f"{PROGRAM}@clients.auth.globus.org"
    return answer | {"sub": PROGRAM, "client_id": PROGRAM, "username": name, "aud": ["service"]} | other


def test_a_program_has_no_session_and_its_own_domain() -> None:
    assert "clients" in refusal(of_a_program()).message
    rules = Rules(
        **{name: getattr(RULES, name) for name in RULES.__slots__} | {"domains": ("clients.auth.globus.org",)}
    )
    assert judge(of_a_program(), rules, NOW).linked == (PROGRAM,)
    refusal(of_a_program(client_id="native"), rules)
    refusal(of_a_program(username="ada@lab.gov"), rules)


LOGIN = f"session_info.authentications.{ADA}"
HARMLESS = {"session_info.session_id", f"{LOGIN}.acr", f"{LOGIN}.amr"}
FITS = {
    ("active", True),
    ("username", "x"),  # the token's own name and client are not what counts, but the login
    ("sub", "x"),
    *((path, 0) for path in ("iat", "nbf", f"{LOGIN}.auth_time")),  # long ago
    (f"policy_evaluations.{POLICY}.evaluation", True),
}


@pytest.mark.parametrize("path", [path for path in paths(GOOD) if OTHER_POLICY not in path and path not in HARMLESS])
@pytest.mark.parametrize("value", [None, [], {}, "", 0, -1, "x", True])
def test_whatever_is_missing_or_of_another_type_lets_nobody_in(path: str, value: Any) -> None:
    if path == "client_id" or any(path == where and value is fit for where, fit in FITS):
        assert judge(changed(path, value), RULES, NOW).id == ADA
    else:
        refusal(changed(path, value))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(paths(GOOD)), ANYTHING)
def test_any_answer_is_judged_without_a_crash(path: str, value: object) -> None:
    with contextlib.suppress(HpcserveError):
        assert judge(changed(path, value), RULES, NOW).name == "ada@lab.gov"


@given(ANYTHING)
def test_no_other_document_lets_anybody_in(answer: object) -> None:
    assert isinstance(refusal(answer), AuthenticationError | ServiceUnavailable)


@pytest.mark.parametrize("answer", [None, "<html>maintenance</html>", [], 1, True])
def test_what_is_no_document_says_nothing_about_the_token(answer: object) -> None:
    assert type(refusal(answer)) is ServiceUnavailable


GROUP = Rules(client_id="c", login_client_id="n", scope="s", issuer="i", groups=("g1", "g2"))


def test_groups() -> None:
    check_groups(RULES, None)
    check_groups(RULES, ())
    check_groups(GROUP, ("g0", "g2"))
    with pytest.raises(PermissionDenied, match="g1, g2"):
        check_groups(GROUP, ("g0",))
    with pytest.raises(ServiceUnavailable):
        check_groups(GROUP, None)


def test_only_active_members_are_members() -> None:
    answer = [
        {"id": "g1", "my_memberships": [{"status": "invited"}]},
        {"id": "g2", "my_memberships": [{"status": "invited"}, {"status": "active"}]},
        {"id": "g3", "my_memberships": []},
    ]
    assert memberships(answer) == ("g2",)


@pytest.mark.parametrize("answer", [["g"], [{"id": "g"}], [{"my_memberships": [{"status": "active"}]}]])
def test_groups_that_lack_something_are_refused(answer: object) -> None:
    with pytest.raises(AuthenticationError):
        memberships(answer)


def test_a_consent_is_asked_for_by_its_scope() -> None:
    error = login_required(RULES, "consent", scopes=["a[b]"])
    assert wanted(error) == {"session_message": "consent", "required_scopes": ["a[b]"]}


@pytest.mark.parametrize("answer", [None, {}, "<html>maintenance</html>"])
def test_what_is_no_list_of_groups_says_nothing_about_them(answer: object) -> None:
    with pytest.raises(ServiceUnavailable):
        memberships(answer)
