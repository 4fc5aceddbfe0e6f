"""What the tokens of the stand-in are worth, to the real globus_sdk: renewing, revoking, handing on, looking into."""

from __future__ import annotations

from pathlib import Path

import globus_sdk
import globus_sdk.gare
import pytest
from globus_sdk.authorizers import GlobusAuthorizer
from globus_sdk.login_flows import CommandLineLoginFlowManager
from globus_sdk.token_storage import JSONTokenStorage

from hpcserve.testing.globus.browser import log_in
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL
from tests.integration.globus.setting import SECRET, Setting


def error_of(refused: pytest.ExceptionInfo[globus_sdk.AuthAPIError]) -> tuple[int, str]:
    assert refused.value.raw_json is not None
    return refused.value.http_status, refused.value.raw_json["error"]


# --- the secret ------------------------------------------------------------------------------------


def test_a_wrong_secret_opens_nothing(setting: Setting) -> None:
    wrong = setting.confidential("wrong")
    for ask in (
        wrong.oauth2_client_credentials_tokens,
        wrong.oauth2_token_introspect,
        wrong.oauth2_get_dependent_tokens,
        wrong.oauth2_revoke_token,
    ):
        with pytest.raises(globus_sdk.AuthAPIError) as refused:
            ask("openid")
        assert error_of(refused) == (401, "invalid_client")


def test_a_native_client_has_no_secret_to_use(setting: Setting) -> None:
    posing = globus_sdk.ConfidentialAppAuthClient(setting.native.id, "")
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        posing.oauth2_client_credentials_tokens("openid")
    assert error_of(refused) == (401, "invalid_client")


def test_a_client_is_an_identity_of_its_own(setting: Setting) -> None:
    tokens = setting.confidential().oauth2_client_credentials_tokens(f"openid {setting.scope}")
    token = tokens.by_resource_server[setting.service.id]["access_token"]
    told = setting.confidential().oauth2_token_introspect(token)
    assert (told["sub"], told["username"]) == (setting.service.id, f"{setting.service.id}@clients.auth.globus.org")
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        setting.confidential().oauth2_client_credentials_tokens("https://auth.globus.org/scopes/unheard/of")
    assert error_of(refused) == (400, "invalid_scope")


# --- looking into ----------------------------------------------------------------------------------


def test_introspection_tells_whose_and_what_for(setting: Setting) -> None:
    other = setting.world.add_person("ada@site.example")
    setting.world.link(setting.person, other)
    include = "session_info,identity_set,identity_set_detail"
    told = setting.confidential().oauth2_token_introspect(setting.token(), include=include)
    assert (told["sub"], told["scope"]) == (setting.person.id, setting.scope)
    assert told["aud"] == [setting.service.id, setting.native.id]
    assert told["identity_set"] == [setting.person.id, other.id]
    assert [each["username"] for each in told["identity_set_detail"]] == ["ada@lab.example", "ada@site.example"]
    assert [each["last_authentication"] is None for each in told["identity_set_detail"]] == [False, True]
    assert told["session_info"]["authentications"].keys() == {setting.person.id}


def test_introspection_says_only_what_was_asked(setting: Setting) -> None:
    told = setting.confidential().oauth2_token_introspect(setting.token()).data
    assert not {"session_info", "identity_set", "identity_set_detail", "policy_evaluations"} & told.keys()


def test_what_is_not_active_is_not_told_about(setting: Setting) -> None:
    service = setting.confidential()
    revoked, expired, withdrawn = setting.token(), setting.token(), setting.token()
    refresh = setting.tokens(offline=True).by_resource_server[setting.service.id]["refresh_token"]
    assert all(service.oauth2_token_introspect(each)["active"] for each in (revoked, expired, withdrawn))
    globus_sdk.NativeAppAuthClient(setting.native.id).oauth2_revoke_token(revoked)
    setting.world.expire(expired)
    assert service.oauth2_token_introspect(withdrawn)["active"]
    setting.world.withdraw(setting.person.id, scope=setting.scope)
    for token in (revoked, expired, withdrawn, refresh, "unheard-of", ""):
        assert service.oauth2_token_introspect(token).data == {"active": False}


def test_nobody_revokes_the_tokens_of_another_client(setting: Setting) -> None:
    token = setting.token()
    setting.confidential().oauth2_revoke_token(token)
    assert setting.confidential().oauth2_token_introspect(token)["active"]


def test_userinfo_says_what_the_scopes_allow(setting: Setting) -> None:
    def told(scopes: str) -> set[str]:
        token = setting.tokens(scopes).by_resource_server["auth.globus.org"]["access_token"]
        return set(globus_sdk.AuthClient(authorizer=globus_sdk.AccessTokenAuthorizer(token)).userinfo().data)

    assert told("openid") == {"sub"}
    assert told("openid email") == {"sub", "email", "email_verified"}
    assert told("openid profile") > {"sub", "name", "preferred_username", "identity_provider"}
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        told("email")
    assert refused.value.http_status == 403
    foreign = globus_sdk.AccessTokenAuthorizer(setting.token())
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        globus_sdk.AuthClient(authorizer=foreign).get_identities(ids=setting.person.id)
    assert refused.value.http_status == 403


# --- renewing --------------------------------------------------------------------------------------


def test_a_refresh_token_renews_until_it_is_revoked_or_its_consent_is_gone(setting: Setting) -> None:
    client = globus_sdk.NativeAppAuthClient(setting.native.id)
    for end in ("revoke", "withdraw"):
        tokens = setting.tokens(offline=True).by_resource_server[setting.service.id]
        renewed = client.oauth2_refresh_token(tokens["refresh_token"]).by_resource_server[setting.service.id]
        assert renewed["access_token"] != tokens["access_token"]
        assert renewed["refresh_token"] == tokens["refresh_token"]
        if end == "revoke":
            client.oauth2_revoke_token(tokens["refresh_token"])
        else:
            setting.world.withdraw(setting.person.id, setting.native.id)
        with pytest.raises(globus_sdk.AuthAPIError) as refused:
            client.oauth2_refresh_token(tokens["refresh_token"])
        assert error_of(refused) == (401, "invalid_grant")
        assert not setting.confidential().oauth2_token_introspect(renewed["access_token"])["active"]


def test_a_refresh_token_is_its_own_clients(setting: Setting) -> None:
    stolen = setting.tokens(offline=True).by_resource_server[setting.service.id]["refresh_token"]
    other = globus_sdk.NativeAppAuthClient(setting.world.add_client("other").id)
    for thief in (other, setting.confidential()):
        with pytest.raises(globus_sdk.AuthAPIError) as refused:
            thief.oauth2_refresh_token(stolen)
        assert error_of(refused) == (401, "invalid_grant")


def test_an_access_token_renews_nothing(setting: Setting) -> None:
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        globus_sdk.NativeAppAuthClient(setting.native.id).oauth2_refresh_token(setting.token())
    assert error_of(refused) == (401, "invalid_grant")


class _Terminal(CommandLineLoginFlowManager):
    """A user who opens the address that is printed, and pastes the code."""

    ca = ""
    opened = ""
    logins = 0

    def print_authorize_url(self, authorize_url: str) -> None:
        self.opened = authorize_url

    def prompt_for_code(self) -> str:
        self.logins += 1
        return log_in(self.opened, self.ca)


def bearer(authorizer: GlobusAuthorizer) -> str:
    header = authorizer.get_authorization_header()
    assert header is not None
    return header.removeprefix("Bearer ")


def test_a_user_app_logs_in_renews_and_logs_out(setting: Setting, tmp_path: Path) -> None:
    client = globus_sdk.NativeAppAuthClient(setting.native.id)
    terminal = _Terminal(client, request_refresh_tokens=True)
    terminal.ca = setting.ca
    storage = JSONTokenStorage(tmp_path / "tokens.json")
    config = globus_sdk.GlobusAppConfig(login_flow_manager=terminal, request_refresh_tokens=True, token_storage=storage)
    needed = {setting.service.id: [setting.scope]}
    with globus_sdk.UserApp("test", login_client=client, scope_requirements=needed, config=config) as app:
        assert app.login_required()
        app.login()
        assert not app.login_required()
        assert terminal.logins == 1
        authorizer = app.get_authorizer(setting.service.id)
        setting.world.expire(bearer(authorizer))
        assert authorizer.handle_missing_authorization()
        second = bearer(authorizer)
        assert setting.confidential().oauth2_token_introspect(second)["active"]
        assert terminal.logins == 1
        app.logout()
        assert app.login_required()
    assert not setting.confidential().oauth2_token_introspect(second)["active"]


def test_a_client_app_needs_no_terminal(setting: Setting, tmp_path: Path) -> None:
    storage = JSONTokenStorage(tmp_path / "tokens.json")
    app = globus_sdk.ClientApp(
        "test",
        client_id=setting.service.id,
        client_secret=SECRET,
        scope_requirements={setting.service.id: [setting.scope]},
        config=globus_sdk.GlobusAppConfig(token_storage=storage),
    )
    with app:
        token = bearer(app.get_authorizer(setting.service.id))
    told = setting.confidential().oauth2_token_introspect(token)
    assert told["sub"] == setting.service.id


# --- handing on ------------------------------------------------------------------------------------


def test_a_service_goes_on_where_the_user_agreed(setting: Setting) -> None:
    token = setting.tokens(f"openid {setting.scope}[{TRANSFER_ALL}]").by_resource_server[setting.service.id]
    handed = setting.confidential().oauth2_get_dependent_tokens(token["access_token"])
    assert handed.by_resource_server.keys() == {"groups.api.globus.org", "transfer.api.globus.org"}
    one = setting.confidential().oauth2_get_dependent_tokens(token["access_token"], scope=GROUPS_VIEW)
    assert one.by_resource_server.keys() == {"groups.api.globus.org"}
    bearer = globus_sdk.AccessTokenAuthorizer(one.by_resource_server["groups.api.globus.org"]["access_token"])
    assert [each["id"] for each in globus_sdk.GroupsClient(authorizer=bearer).get_my_groups()] == [setting.group.id]


def test_a_scope_below_another_is_known_to_have_been_agreed(setting: Setting) -> None:
    collection = "22222222-2222-3333-4444-555555555555"
    data_access = setting.world.add_scope(collection, "data_access").scope
    for asked, agreed in ((TRANSFER_ALL, False), (f"{TRANSFER_ALL}[*{data_access}]", True)):
        token = setting.token(f"{setting.scope}[{asked}]")
        handed = setting.confidential().oauth2_get_dependent_tokens(token, scope=TRANSFER_ALL)
        transfer = setting.world.token(handed.by_resource_server["transfer.api.globus.org"]["access_token"])
        assert transfer is not None
        assert setting.world.consented(transfer, TRANSFER_ALL, data_access) is agreed


def test_what_the_user_has_not_agreed_to_is_named_as_the_sdk_reads_it(setting: Setting) -> None:
    for asked in (TRANSFER_ALL, f"{GROUPS_VIEW} {TRANSFER_ALL}"):
        with pytest.raises(globus_sdk.AuthAPIError) as refused:
            setting.confidential().oauth2_get_dependent_tokens(setting.token(), scope=asked)
        assert refused.value.http_status == 403
        document = globus_sdk.gare.to_gare(refused.value)
        assert document is not None
        assert document.code == "ConsentRequired"
        missing = document.authorization_parameters.required_scopes
        assert missing == [f"{setting.scope}[{TRANSFER_ALL}]"]
    setting.tokens(f"openid {setting.scope}[{TRANSFER_ALL}]")
    handed = setting.confidential().oauth2_get_dependent_tokens(setting.token(), scope=TRANSFER_ALL)
    assert handed.by_resource_server.keys() == {"transfer.api.globus.org"}


def test_one_of_several_scopes_may_lead_on(setting: Setting) -> None:
    other = setting.world.add_scope(setting.service.id, "look").scope
    token = setting.token(f"openid {other} {setting.scope}[{TRANSFER_ALL}]")
    handed = setting.confidential().oauth2_get_dependent_tokens(token, scope=TRANSFER_ALL)
    assert [each["resource_server"] for each in handed.data] == ["transfer.api.globus.org"]
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        setting.confidential().oauth2_get_dependent_tokens(token, scope=f"{TRANSFER_ALL} openid")
    assert error_of(refused) == (403, "dependent_consent_required")


def test_a_withdrawn_consent_is_required_again(setting: Setting) -> None:
    token = setting.token()
    handed = setting.confidential().oauth2_get_dependent_tokens(token)
    groups = handed.by_resource_server["groups.api.globus.org"]["access_token"]
    setting.world.withdraw(setting.person.id, scope=GROUPS_VIEW)
    assert setting.world.token(groups) is None
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        setting.confidential().oauth2_get_dependent_tokens(token)
    assert error_of(refused) == (403, "dependent_consent_required")


def test_dependent_refresh_tokens_need_a_login_for_longer(setting: Setting) -> None:
    service = setting.confidential()
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        service.oauth2_get_dependent_tokens(setting.token(), refresh_tokens=True)
    assert error_of(refused) == (403, "dependent_consent_required")
    handed = service.oauth2_get_dependent_tokens(setting.token(offline=True), refresh_tokens=True)
    refresh = handed.by_resource_server["groups.api.globus.org"]["refresh_token"]
    assert service.oauth2_refresh_token(refresh)["resource_server"] == "groups.api.globus.org"


def test_a_token_is_handed_on_by_its_own_service_only(setting: Setting) -> None:
    other = setting.world.add_client("other", secret="of-another")
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        globus_sdk.ConfidentialAppAuthClient(other.id, "of-another").oauth2_get_dependent_tokens(setting.token())
    assert error_of(refused) == (401, "invalid_grant")
    expired = setting.token()
    setting.world.expire(expired)
    with pytest.raises(globus_sdk.AuthAPIError) as refused:
        setting.confidential().oauth2_get_dependent_tokens(expired)
    assert error_of(refused) == (401, "invalid_grant")


# --- groups ----------------------------------------------------------------------------------------


def test_groups_are_those_of_all_identities_of_a_person(setting: Setting) -> None:
    other = setting.world.add_person("ada@site.example")
    setting.world.link(setting.person, other)
    there = setting.world.add_group("there", [other])
    setting.world.add_group("others", [setting.world.add_person("bob@lab.example")])
    token = setting.world.token_for(setting.person, setting.native, GROUPS_VIEW).value
    client = globus_sdk.GroupsClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))
    assert {each["id"] for each in client.get_my_groups()} == {setting.group.id, there.id}
    assert client.get_my_groups(statuses="invited").data == []
    setting.group.members.clear()
    assert [each["id"] for each in client.get_my_groups()] == [there.id]


def test_groups_are_not_for_every_token(setting: Setting) -> None:
    expired = setting.world.token_for(setting.person, setting.native, GROUPS_VIEW).value
    setting.world.expire(expired)
    for token, status in ((expired, 401), ("", 401), (setting.token(), 403)):
        client = globus_sdk.GroupsClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))
        with pytest.raises(globus_sdk.GroupsAPIError) as refused:
            client.get_my_groups()
        assert refused.value.http_status == status
