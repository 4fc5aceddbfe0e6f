"""What of a service's demand a client goes along with: a login for its own scope, and nothing more."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.claims import Rules, login_required
from hpcserve.core.demands import demand_of, own_demand, together
from hpcserve.errors import AuthenticationError, LoginRequired

SERVICE, NATIVE = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
SCOPE = f"https://auth.globus.org/scopes/{SERVICE}/all"
TRANSFER = "urn:globus:auth:scope:transfer.api.globus.org:all"
RULES = Rules(client_id=SERVICE, login_client_id=NATIVE, scope=SCOPE, issuer="https://auth.globus.org")
GOOD: dict[str, Any] = login_required(RULES, "log in").detail


def changed(**changes: Any) -> LoginRequired:
    return LoginRequired("", detail=copy.deepcopy(GOOD) | changes)


def asked(**parameters: Any) -> LoginRequired:
    return changed(authorization_parameters=GOOD["authorization_parameters"] | parameters)


def test_what_admission_asks_for_is_understood() -> None:
    demand = demand_of(LoginRequired("", detail=GOOD))
    assert (demand.client_id, demand.scope, demand.resource_server) == (NATIVE, SCOPE, SERVICE)
    assert demand.authorization_parameters.session_message == "log in"
    assert not demand.needs_person
    assert demand.rights == SCOPE


def test_all_that_a_service_is_let_do_is_told() -> None:
    files = "https://auth.globus.org/scopes/x/https"
    scopes = [f"{SCOPE}[{TRANSFER}[*y]]", SCOPE, f"{SCOPE}[{files}]"]
    assert demand_of(asked(required_scopes=scopes)).rights == f"{SCOPE}, and through that to {TRANSFER}[*y] {files}"


@pytest.mark.parametrize(
    "parameters",
    [
        {"session_required_mfa": True},
        {"session_required_policies": [SERVICE]},
        {"session_required_single_domain": ["lab.gov"]},
        {"session_required_identities": [SERVICE]},
        {"prompt": "login"},
        {"required_scopes": [f"{SCOPE}[{TRANSFER}]"]},
    ],
)
def test_what_a_newer_token_does_not_mend(parameters: dict[str, Any]) -> None:
    demand = demand_of(asked(**parameters))
    assert demand.needs_person
    assert all(getattr(demand.authorization_parameters, name) == value for name, value in parameters.items())


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(changed(scope=TRANSFER), id="transfer"),
        pytest.param(changed(scope=f"{SCOPE} {TRANSFER}"), id="two"),
        pytest.param(changed(scope=f"{SCOPE}[{TRANSFER}]"), id="with-brackets"),
        pytest.param(changed(scope=f"https://auth.globus.org/scopes/{NATIVE}/all"), id="anothers"),
        pytest.param(changed(scope=f"https://auth.globus.org/scopes/{SERVICE}/https"), id="files"),
        pytest.param(changed(scope=f"https://auth.globus.org/scopes/{SERVICE}/data_access"), id="data-access"),
        pytest.param(changed(scope=f"https://evil.example/scopes/{SERVICE}/all"), id="elsewhere"),
        pytest.param(changed(scope="openid"), id="openid"),
        pytest.param(changed(client_id="x"), id="client"),
        pytest.param(changed(client_id=f"{NATIVE}/../x"), id="client-with-more"),
        pytest.param(changed(resource_server="transfer.api.globus.org"), id="resource-server"),
        pytest.param(asked(required_scopes=[TRANSFER]), id="required-transfer"),
        pytest.param(asked(required_scopes=[SCOPE, "openid"]), id="required-more"),
        pytest.param(asked(required_scopes=[f"{SCOPE} {TRANSFER}"]), id="required-two"),
        pytest.param(asked(required_scopes=[f"{SCOPE}[a] {TRANSFER}[b]"]), id="required-two-with-brackets"),
        pytest.param(asked(required_scopes=[f"{SCOPE}[a]b]"]), id="brackets"),
        pytest.param(asked(required_scopes=[f"{SCOPE}_more"]), id="similar"),
        pytest.param(asked(session_required_mfa="yes"), id="type"),
        pytest.param(changed(authorization_parameters="x"), id="parameters"),
        pytest.param(LoginRequired("log in"), id="none"),
    ],
)
def test_what_a_service_must_not_have_is_refused(refused: LoginRequired) -> None:
    with pytest.raises(AuthenticationError) as raised:
        demand_of(refused)
    assert not isinstance(raised.value, LoginRequired)


def test_a_prompt_that_globus_does_not_know_is_left_out() -> None:
    assert demand_of(asked(prompt="consent")).authorization_parameters.prompt is None


def test_several_missing_consents_are_asked_for_at_once() -> None:
    own = demand_of(asked()).scope
    one = asked(required_scopes=[f"{own}[a]"], session_message="no transfers")
    other = asked(required_scopes=[f"{own}[b]", f"{own}[a]"], session_message="no files", prompt="login")
    wanted = demand_of(together([one, other])).authorization_parameters
    assert wanted.required_scopes == [f"{own}[a]", f"{own}[b]"]
    assert (wanted.session_message, wanted.prompt) == ("no transfers; no files", "login")
    assert together([one, other]).message == one.message
    assert together([other]) is other


def test_what_was_asked_for_before_stays_asked_for() -> None:
    first = demand_of(asked(session_required_policies=[SERVICE], prompt="login"))
    second = demand_of(asked(session_required_single_domain=["lab.gov"], session_message="second"))
    third = demand_of(asked(session_required_mfa=True, session_required_policies=[SERVICE, NATIVE]))
    wanted = third.after(second.after(first)).authorization_parameters
    assert wanted.session_required_policies == [SERVICE, NATIVE]
    assert wanted.session_required_single_domain == ["lab.gov"]
    assert wanted.session_required_mfa
    assert (wanted.prompt, wanted.session_message) == ("login", "log in")
    assert second.after(first).authorization_parameters.session_message == "second"
    other = demand_of(changed(scope=f"https://auth.globus.org/scopes/{SERVICE}/other", authorization_parameters={}))
    assert other.after(first) == other


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), _JSON))
def test_whatever_comes_is_refused_or_is_the_services_own(detail: dict[str, Any]) -> None:
    try:
        demand = demand_of(changed(**detail))
    except AuthenticationError:
        return
    assert demand.scope == SCOPE
    assert all(each.startswith(SCOPE) for each in demand.authorization_parameters.required_scopes or ())


def test_what_somebody_submits_himself_takes_a_login_for_transfer_and_nothing_else() -> None:
    collections = [f"{digit * 8}-0000-4000-8000-000000000000" for digit in "123"]
    access = [f"https://auth.globus.org/scopes/{each}/data_access" for each in collections]
    scopes = [
        f"{SCOPE}[{TRANSFER}[*{access[1]} *{access[2]}]]",
        f"{SCOPE}[https://auth.globus.org/scopes/{NATIVE}/https]",
    ]
    told = asked(required_scopes=scopes, session_required_single_domain=["lab.gov"])
    demand = own_demand(told, collections[:2], among=collections)
    assert (demand.client_id, demand.scope, demand.resource_server) == (NATIVE, TRANSFER, "transfer.api.globus.org")
    wanted = demand.authorization_parameters
    assert wanted.required_scopes == [f"{TRANSFER}[*{access[0]} *{access[1]} *{access[2]}]"]
    assert wanted.session_required_single_domain == ["lab.gov"]
    assert own_demand(changed(), among=()).authorization_parameters.required_scopes == [TRANSFER]
    few = own_demand(told, collections[:2], among=collections[1:2]).authorization_parameters
    assert few.required_scopes == [f"{TRANSFER}[*{access[1]}]"], "of no collection that has nothing to do with it"


@pytest.mark.parametrize(
    ("scopes", "consents"),
    [([f"{SCOPE}[{TRANSFER}[*https://auth.globus.org/scopes/x/data_access]]"], []), ([SCOPE], ["x] openid"])],
)
def test_nobody_is_asked_to_consent_for_a_collection_that_is_none(scopes: list[str], consents: list[str]) -> None:
    with pytest.raises(AuthenticationError, match="no UUID"):
        own_demand(asked(required_scopes=scopes), consents, among=consents)
