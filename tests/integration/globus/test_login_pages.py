"""Logging in at the stand-in by the flow of the command line, with the real globus_sdk; and how that can fail."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import globus_sdk
import pytest
import requests
from globus_sdk import MISSING

from hpcserve.testing.globus.browser import NotApproved, log_in
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Policy
from tests.integration.globus.setting import Setting

POLICY = "11111111-2222-3333-4444-555555555555"


def session(setting: Setting, **asked: Any) -> dict[str, Any]:
    """What the session of a new token has proved, by username."""
    return _logins(setting, setting.token(**asked))


def _logins(setting: Setting, token: str) -> dict[str, Any]:
    told = setting.confidential().oauth2_token_introspect(token, include="session_info")
    people = setting.world.people
    return {people[name].username: login for name, login in told["session_info"]["authentications"].items()}


def with_parameters(url: str, **changes: str) -> str:
    """The address with some of its parameters changed; an empty one is left out."""
    parameters = {**dict(parse_qsl(urlsplit(url).query)), **changes}
    kept = {name: value for name, value in parameters.items() if value}
    return f"{url.partition('?')[0]}?{urlencode(kept)}"


def invalid_grant(client: globus_sdk.NativeAppAuthClient, code: str, why: str) -> None:
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        client.oauth2_exchange_code_for_tokens(code)
    assert (refused.value.http_status, refused.value.raw_json) == (401, {"error": "invalid_grant"})
    assert why in refused.value.headers["x-stand-in-reason"]


def test_a_login_from_a_terminal(setting: Setting) -> None:
    tokens = setting.tokens(f"openid profile email {setting.scope} {TRANSFER_ALL}", offline=True)
    assert tokens.by_resource_server.keys() == {"auth.globus.org", setting.service.id, "transfer.api.globus.org"}
    assert all(each["refresh_token"] for each in tokens.by_resource_server.values())
    assert tokens["state"] == "_default"
    told = tokens.decode_id_token()
    assert (told["sub"], told["preferred_username"]) == (setting.person.id, "ada@lab.example")
    assert (told["iss"], told["aud"]) == ("https://auth.globus.org", setting.native.id)
    assert told["exp"] - told["iat"] == 172_800


def test_an_id_token_is_signed_by_the_key_that_is_published(setting: Setting) -> None:
    tokens = setting.tokens("openid")
    keys = setting.flow().get_jwk(MISSING, as_pem=False)["keys"]
    assert [(key["alg"], key["kty"]) for key in keys] == [("RS512", "RSA")]
    head, claims, signature = tokens["id_token"].split(".")
    forged = {**tokens.data, "id_token": f"{head}.{claims[:-4]}AAAA.{signature}"}
    client = globus_sdk.NativeAppAuthClient(setting.native.id)
    with pytest.raises(Exception, match="Signature verification failed"):
        globus_sdk.IDTokenDecoder(client).decode(forged["id_token"])


def test_a_code_is_worth_nothing_without_its_verifier(setting: Setting) -> None:
    stolen = setting.code(setting.flow())
    invalid_grant(setting.flow(), stolen, "code_verifier does not fit")


def test_a_code_is_used_once_and_who_uses_it_twice_ends_what_came_of_it(setting: Setting) -> None:
    client = setting.flow()
    code = setting.code(client)
    token = client.oauth2_exchange_code_for_tokens(code).by_resource_server[setting.service.id]["access_token"]
    assert setting.confidential().oauth2_token_introspect(token)["active"]
    invalid_grant(client, code, "used before")
    assert not setting.confidential().oauth2_token_introspect(token)["active"]


def test_a_code_expires(setting: Setting) -> None:
    client = setting.flow()
    code = setting.code(client)
    setting.world.ahead_s += 601
    invalid_grant(client, code, "not any more")


def test_a_code_is_for_one_client_and_one_redirect(setting: Setting) -> None:
    client = setting.flow()
    other = globus_sdk.NativeAppAuthClient(setting.world.add_client("other").id)
    other.oauth2_start_flow(requested_scopes="openid")
    invalid_grant(other, setting.code(client), "not for this client")
    client = setting.flow()
    moved = with_parameters(client.oauth2_get_authorize_url(), redirect_uri=f"{setting.globus.url}v2/web/auth-code?x=1")
    invalid_grant(client, log_in(moved, setting.ca), "redirect_uri")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"client_id": "unheard-of"}, "no client 'unheard-of'"),
        ({"redirect_uri": "https://evil.example/"}, "none of the redirect URIs"),
        ({"code_challenge": ""}, "a code_challenge is needed"),
        ({"code_challenge_method": "plain"}, "has to be 'S256'"),
        ({"response_type": "token"}, "response_type"),
        ({"scope": "openid https://auth.globus.org/scopes/unheard/of"}, "UNKNOWN_SCOPE_ERROR: https://auth.globus"),
        ({"scope": "openid["}, "ends too early"),
        ({"scope": ""}, "no scope"),
        ({"session_required_policies": POLICY}, "no policy"),
    ],
)
def test_a_wrong_login_is_refused_with_its_reason(changes: dict[str, str], told: str, setting: Setting) -> None:
    url = with_parameters(setting.flow().oauth2_get_authorize_url(), **changes)
    with pytest.raises(NotApproved, match=told):
        log_in(url, setting.ca)


def test_a_person_may_not_consent_or_not_be_there(setting: Setting) -> None:
    setting.world.approving = False
    with pytest.raises(NotApproved, match=r"access_denied: ada@lab\.example does not consent"):
        setting.tokens()
    setting.world.signed_in = None
    with pytest.raises(NotApproved, match="nobody sits"):
        setting.tokens()


def test_a_confidential_client_gets_its_code_at_its_own_address(setting: Setting) -> None:
    web = setting.world.add_client("portal", secret="of-the-portal", redirect_uris=["http://localhost:1/back?a=b"])
    client = globus_sdk.ConfidentialAppAuthClient(web.id, "of-the-portal")
    client.oauth2_start_flow("http://localhost:1/back?a=b", "openid", state="mine")
    with requests.Session() as browser:
        browser.trust_env = False
        page = browser.get(client.oauth2_get_authorize_url(), allow_redirects=False, verify=setting.ca, timeout=60)
    assert page.status_code == 302
    back = dict(parse_qsl(urlsplit(page.headers["location"]).query))
    assert (back["a"], back["state"]) == ("b", "mine")
    assert client.oauth2_exchange_code_for_tokens(back["code"])["state"] == "mine"


# --- what a session has to prove --------------------------------------------------------------------


def test_a_second_factor_is_shown_when_it_is_asked_for(setting: Setting) -> None:
    assert session(setting)["ada@lab.example"]["amr"] == ["pwd"]
    with pytest.raises(NotApproved, match="no second factor"):
        setting.token(session_required_mfa=True)
    setting.person.second_factor = True
    assert session(setting, session_required_mfa=True)["ada@lab.example"]["amr"] == ["pwd", "mfa"]


def test_a_session_gets_the_linked_identity_that_is_asked_for(setting: Setting) -> None:
    other = setting.world.add_person("ada@site.example")
    stranger = setting.world.add_person("bob@site.example")
    with pytest.raises(NotApproved, match=r"no identity of site\.example"):
        setting.token(session_required_single_domain="site.example")
    setting.world.link(setting.person, other)
    logins = session(setting, session_required_single_domain="site.example")
    assert logins.keys() == {"ada@lab.example", "ada@site.example"}
    assert logins["ada@site.example"]["idp"] == other.identity_provider
    setting.world.sign_in(setting.person)
    assert "ada@site.example" in session(setting, session_required_identities=other.id)
    with pytest.raises(NotApproved, match="is no identity of ada"):
        setting.token(session_required_identities=stranger.id)


def test_a_token_keeps_the_session_that_it_was_issued_in(setting: Setting) -> None:
    setting.world.link(setting.person, setting.world.add_person("ada@site.example"))
    before = setting.token()
    assert session(setting, session_required_single_domain="site.example").keys() > _logins(setting, before).keys()


def test_a_new_login_is_younger(setting: Setting) -> None:
    first = session(setting)["ada@lab.example"]["auth_time"]
    setting.world.ahead_s += 100
    assert session(setting)["ada@lab.example"]["auth_time"] == first
    assert session(setting, prompt="login")["ada@lab.example"]["auth_time"] >= first + 100


def evaluations(setting: Setting, token: str, *policies: str) -> Any:
    body = {"token": token, "authentication_policies": ",".join(policies)}
    answer = setting.confidential().post("/v2/oauth2/token/introspect", data=body, encoding="form")
    return answer["policy_evaluations"]


@pytest.mark.parametrize(
    "policy",
    [
        Policy(POLICY, "of the site", include=("site.example",)),
        Policy(POLICY, "not of the lab", exclude=("lab.example",)),
        Policy(POLICY, "two factors", required_mfa=True),
        Policy(POLICY, "the site's second factor", include=("site.example",), required_mfa=True),
        Policy(POLICY, "young", high_assurance=True, timeout_s=60),
    ],
    ids=lambda policy: policy.name,
)
def test_a_policy_fails_until_the_session_satisfies_it(policy: Policy, setting: Setting) -> None:
    other = setting.world.add_person("ada@site.example", second_factor=True)
    setting.person.second_factor = True
    setting.world.link(setting.person, other)
    setting.world.add_policy(policy)
    setting.world.ahead_s += 61
    assert evaluations(setting, setting.token(), POLICY, "unheard-of") == {POLICY: {"evaluation": False}}
    satisfied = setting.token(session_required_policies=POLICY)
    assert evaluations(setting, satisfied, POLICY) == {POLICY: {"evaluation": True}}


def test_a_policy_that_cannot_be_satisfied(setting: Setting) -> None:
    setting.world.add_policy(Policy(POLICY, "elsewhere", include=("elsewhere.example",)))
    with pytest.raises(NotApproved, match="cannot satisfy the policy 'elsewhere'"):
        setting.token(session_required_policies=POLICY)


def test_consents_are_written_down_as_the_sdk_reads_them(setting: Setting) -> None:
    tokens = setting.tokens(f"openid {setting.scope}[{TRANSFER_ALL}]").by_resource_server
    bearer = globus_sdk.AccessTokenAuthorizer(tokens["auth.globus.org"]["access_token"])
    client = globus_sdk.AuthClient(authorizer=bearer)
    forest = client.get_consents(setting.person.id).to_forest()
    for agreed in (setting.scope, f"{setting.scope}[{GROUPS_VIEW}]", f"{setting.scope}[{TRANSFER_ALL}]"):
        assert forest.meets_scope_requirements(agreed)
    for not_agreed in (TRANSFER_ALL, f"openid[{TRANSFER_ALL}]"):
        assert not forest.meets_scope_requirements(not_agreed)
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        client.get_consents(setting.service.id)
    assert refused.value.http_status == 403
