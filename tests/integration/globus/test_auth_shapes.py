"""Auth and Groups of the stand-in answer in the shape of Globus's own recorded answers; and the comparison can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import globus_sdk
import pytest

from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL, Policy
from tests.integration.globus.setting import Setting
from tests.integration.globus.shapes import differences, examples, mutations

VIEW_IDENTITY_SET = "urn:globus:auth:scope:auth.globus.org:view_identity_set"


def auth_client(setting: Setting) -> globus_sdk.AuthClient:
    token = setting.tokens("openid email profile").by_resource_server["auth.globus.org"]["access_token"]
    return globus_sdk.AuthClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))


def groups_client(setting: Setting) -> globus_sdk.GroupsClient:
    token = setting.world.token_for(setting.person, setting.native, GROUPS_VIEW)
    return globus_sdk.GroupsClient(authorizer=globus_sdk.AccessTokenAuthorizer(token.value))


def dependent(setting: Setting, *, refresh: bool) -> Any:
    token = setting.token(offline=refresh)
    return setting.confidential().oauth2_get_dependent_tokens(token, refresh_tokens=refresh).data


def introspection(setting: Setting) -> Any:
    scopes = f"{VIEW_IDENTITY_SET} profile email openid"
    token = setting.tokens(scopes).by_resource_server["auth.globus.org"]["access_token"]
    return setting.confidential().oauth2_token_introspect(token).data


def consents(setting: Setting) -> Any:
    client = auth_client(setting)
    setting.tokens(f"openid {TRANSFER_ALL} {setting.scope}[{TRANSFER_ALL}]")
    return client.get_consents(setting.person.id).data


def policy(setting: Setting) -> Any:
    made = Policy("11111111-2222-3333-4444-555555555555", "lab", include=("lab.example",), timeout_s=1800)
    setting.world.add_policy(made)
    return auth_client(setting).get_policy(made.id).data


def new_policy(setting: Setting) -> Any:
    client = auth_client(setting)
    made = client.create_policy(
        project_id=setting.service.id,
        display_name="lab",
        description="of the lab",
        domain_constraints_include=["lab.example"],
        authentication_assurance_timeout=1800,
        high_assurance=True,
    )
    assert client.get_policy(made["policy"]["id"]).data == made.data
    return made.data


def new_scope(setting: Setting) -> Any:
    transfer = setting.world.scopes[TRANSFER_ALL].id
    needed = globus_sdk.DependentScopeSpec(transfer, optional=True, requires_refresh_token=False)
    made = auth_client(setting).create_scope(setting.service.id, "Run", "Run things", "run", dependent_scopes=[needed])
    assert made["scope"]["scope_string"].endswith(f"/{setting.service.id}/run")
    assert made["scope"]["dependent_scopes"][0]["scope"] == transfer
    return made.data


CASES: dict[str, tuple[Callable[[Setting], Any], list[str]]] = {
    "code": (
        lambda s: s.tokens(f"openid {TRANSFER_ALL}").data,
        ["auth.oauth2_exchange_code_for_tokens", "auth.oauth2_exchange_code_for_tokens:openid"],
    ),
    "client credentials": (
        lambda s: s.confidential().oauth2_client_credentials_tokens(TRANSFER_ALL).data,
        ["auth.oauth2_client_credentials_tokens"],
    ),
    "client credentials, openid": (
        lambda s: s.confidential().oauth2_client_credentials_tokens("openid").data,
        ["auth.oauth2_client_credentials_tokens:openid"],
    ),
    "dependent": (lambda s: dependent(s, refresh=False), ["auth.oauth2_get_dependent_tokens:groups"]),
    "dependent, refresh": (
        lambda s: dependent(s, refresh=True),
        ["auth.oauth2_get_dependent_tokens:groups_with_refresh_token"],
    ),
    "introspection": (introspection, ["auth.oauth2_token_introspect"]),
    "revocation": (
        lambda s: s.confidential().oauth2_revoke_token("unheard of").data,
        ["auth.oauth2_revoke_token"],
    ),
    "identities": (
        lambda s: auth_client(s).get_identities(usernames=s.person.username).data,
        ["auth.get_identities", "auth.get_identities:globusid"],
    ),
    "no identity": (
        lambda s: auth_client(s).get_identities(usernames="nobody@lab.example").data,
        ["auth.get_identities:empty"],
    ),
    "identity providers": (
        lambda s: auth_client(s).get_identity_providers(domains="lab.example").data,
        ["auth.get_identity_providers"],
    ),
    "consents": (consents, ["auth.get_consents"]),
    "client": (lambda s: auth_client(s).get_client(client_id=s.service.id).data, ["auth.get_client"]),
    "scopes": (lambda s: auth_client(s).get_scopes(scope_strings=s.scope).data, ["auth.get_scopes:string"]),
    "policy": (policy, ["auth.get_policy"]),
    "new policy": (new_policy, ["auth.get_policy", "auth.create_policy"]),
    "new scope": (new_scope, ["auth.create_scope"]),
    "my groups": (lambda s: groups_client(s).get_my_groups().data, ["groups.get_my_groups"]),
    "group": (lambda s: groups_client(s).get_group(s.group.id).data, ["groups.get_group"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_keys_and_types_and_any_other_is_seen(case: str, setting: Setting) -> None:
    ask, names = CASES[case]
    known = examples(*names)
    answer = ask(setting)
    assert differences(answer, known) == []
    mutated = dict(mutations(answer, known))
    assert mutated, "nothing to compare"
    assert [what for what, wrong in mutated.items() if not differences(wrong, known)] == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"a": 1, "b": [{"c": None}]}, []),
        ({"a": 1, "b": []}, []),
        ({"b": []}, [".a: is missing"]),
        ({"a": True, "b": []}, [".a: bool, not int"]),
        ({"a": 1, "b": [{"c": 2}]}, [".b[0].c: int, not null or str"]),
        ({"a": 1, "b": [{}]}, [".b[0].c: is missing"]),
        ({"a": 1, "b": [], "d": 1}, [".d: no example has it"]),
        ({"a": 1, "b": [], "e": "no-id"}, [".e: str, not id"]),
        ([], ["the answer: list, not dict"]),
    ],
)
def test_what_the_comparison_says(answer: Any, told: list[str]) -> None:
    known = [
        {"a": 1, "b": [{"c": None}, {"c": "x"}], "e": "11111111-2222-3333-4444-555555555555"},
        {"a": 2, "b": []},
    ]
    assert differences(answer, known) == told


def test_other_tokens_have_the_shape_of_the_first(setting: Setting) -> None:
    tokens = setting.tokens(f"openid {TRANSFER_ALL} {GROUPS_VIEW}").data
    first = {name: value for name, value in tokens.items() if name not in {"state", "other_tokens", "id_token"}}
    assert [each["resource_server"] for each in tokens["other_tokens"]] == [
        "groups.api.globus.org",
        "transfer.api.globus.org",
    ]
    assert [differences(each, [first]) for each in tokens["other_tokens"]] == [[], []]


def test_refusals_have_the_shape_of_recorded_ones(setting: Setting) -> None:
    stranger = globus_sdk.AuthClient(authorizer=globus_sdk.AccessTokenAuthorizer("unheard-of"))
    with pytest.raises(globus_sdk.GlobusAPIError) as unauthorized:
        stranger.userinfo()
    assert unauthorized.value.http_status == 401
    assert differences(unauthorized.value.raw_json, examples("auth.userinfo:unauthorized")) == []
    foreign = setting.world.token_for(setting.person, setting.native, TRANSFER_ALL).value
    with pytest.raises(globus_sdk.GlobusAPIError) as forbidden:
        globus_sdk.AuthClient(authorizer=globus_sdk.AccessTokenAuthorizer(foreign)).userinfo()
    assert forbidden.value.http_status == 403
    assert differences(forbidden.value.raw_json, examples("auth.userinfo:forbidden")) == []
    with pytest.raises(globus_sdk.GlobusAPIError) as invalid:
        setting.flow().oauth2_exchange_code_for_tokens("unheard-of")
    assert invalid.value.http_status == 401
    assert invalid.value.raw_json == examples("auth.oauth2_exchange_code_for_tokens:invalid_grant")[0]
