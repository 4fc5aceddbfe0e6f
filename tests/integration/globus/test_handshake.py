"""Who is let in with a token: a real admission process, the real Globus SDK in it, and the loopback stand-in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from globus_sdk import gare

from hpcserve.auth.keys import KeyPair, new_key_pair
from hpcserve.auth.private import private_directory
from hpcserve.core.tokens import RENEW
from hpcserve.testing.globus.records import Policy
from hpcserve.wire import hub
from hpcserve.wire.frames import encode
from hpcserve.wire.messages import Hello, Refused, Welcome
from tests.integration.admission_house import House, until
from tests.integration.globus.setting import SECRET, Setting

INTROSPECT = "POST /v2/oauth2/token/introspect"
GROUPS = "GET /v2/groups/my_groups"
CACHE_S = 3.0
NewHouse = Callable[..., House]


@pytest.fixture
def new_house(tmp_path: Path, setting: Setting) -> Iterator[NewHouse]:
    made: list[House] = []

    def make(accounts: str = "", *, deployers: str = f"group:{setting.group.id}", **fields: Any) -> House:
        place = tmp_path / f"house{len(made)}"
        secret = private_directory(place / "state" / "keys") / "globus.secret"
        secret.touch(0o600)
        secret.write_text(f"{SECRET}\n")
        fields = {"client_id": setting.service.id, "native_client_id": setting.native.id, "cache_s": CACHE_S} | fields
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
        lists = f'administer = {{ allow = ["user:root@lab.example"] }}\ndeploy = {{ allow = ["{deployers}"] }}'
        access = f'[access]\naccounts = "{accounts}"\n{lists}'
        site = f'auth = "globus"\n{access}\n[globus]\n{lines}'
        made.append(House(place, site=site, environment=setting.globus.environment))
        made[-1].open_hub()
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def house(new_house: NewHouse) -> House:
    return new_house()


def token_of(setting: Setting, **changed: Any) -> str:
    """A token as a login gives it, without the browser."""
    token = setting.world.token_for(setting.person, setting.native, setting.scope)
    for name, value in changed.items():
        setattr(setting.world.tokens[token.value], name, value)
    return token.value


def refused(house: House, token: str, keys: KeyPair | None = None) -> Any:
    answer = house.hello(keys or new_key_pair(), token=token)
    assert isinstance(answer, Refused)
    return answer.error


def put_out(house: House, keys: KeyPair) -> hub.RevokeKey:
    def look() -> hub.RevokeKey | None:
        house.serve_hub()
        return next((each for each in house.heard if isinstance(each, hub.RevokeKey) and each.key == keys.public), None)

    found: hub.RevokeKey = until(look, "a key is put out")
    return found


def test_a_login_in_the_browser_lets_in_and_tells_all_about_its_person(house: House, setting: Setting) -> None:
    keys, token = new_key_pair(), setting.token()
    welcome = house.hello(keys, token=token)
    assert isinstance(welcome, Welcome)
    assert welcome.identity == "ada@lab.example"
    assert welcome.expires_in_s == pytest.approx(setting.world.lifetime_s, abs=30)
    (admit,) = house.heard
    identity = admit.identity
    assert (identity.id, identity.domain) == (setting.person.id, "lab.example")
    assert identity.groups == (setting.group.id,)
    lines = [json.loads(line) for line in (house.state / "audit" / "admission.jsonl").read_text().splitlines()]
    assert [(line["allowed"], line["name"], line["peer"]) for line in lines] == [(True, "ada@lab.example", "127.0.0.1")]
    assert token not in json.dumps(lines) + house.log.read_text()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda setting: "", "login_required", id="none"),
        pytest.param(lambda setting: token_of(setting, expires=time.time() - 1), "login_required", id="expired"),
        pytest.param(lambda setting: token_of(setting, active=False), "login_required", id="revoked"),
        pytest.param(lambda setting: token_of(setting)[:-1], "login_required", id="truncated"),
        pytest.param(lambda setting: token_of(setting, scopes=("openid",)), "login_required", id="scope"),
        pytest.param(
            lambda setting: token_of(setting, scopes=(f"{setting.scope}_too",)), "login_required", id="similar-scope"
        ),
        pytest.param(lambda setting: token_of(setting, resource_server="other"), "unauthenticated", id="audience"),
        pytest.param(lambda setting: token_of(setting, issued=time.time() + 3600), "unauthenticated", id="future"),
    ],
)
def test_a_token_that_will_not_do_is_refused(
    house: House, setting: Setting, make: Callable[[Setting], str], code: str
) -> None:
    error = refused(house, make(setting))
    assert error.code == code
    assert house.heard == []
    if code == "login_required":
        assert error.detail["client_id"] == setting.native.id
        document = gare.to_gare(error.detail)
        assert document is not None
        assert document.authorization_parameters.required_scopes == [setting.scope]


def test_another_issuer_is_refused(house: House, setting: Setting) -> None:
    setting.world.issuer = "https://auth.example.org"
    assert refused(house, token_of(setting)).code == "unauthenticated"


def test_a_revoked_token_is_noticed_within_the_age_of_an_answer(house: House, setting: Setting) -> None:
    keys, token = new_key_pair(), token_of(setting)
    assert isinstance(house.hello(keys, token=token), Welcome)
    setting.world.revoke(token)
    began = time.monotonic()
    error = put_out(house, keys).error
    assert error is not None
    assert error.code == "login_required"
    assert time.monotonic() - began < CACHE_S + 10, "on a busy machine; else within the age"
    assert refused(house, token, keys).code == "login_required"


def test_a_key_goes_when_its_token_ends_unless_another_token_came(house: House, setting: Setting) -> None:
    setting.world.lifetime_s = 5
    keys, others = new_key_pair(), new_key_pair()
    assert isinstance(house.hello(keys, token=token_of(setting)), Welcome)
    assert isinstance(house.hello(others, token=token_of(setting)), Welcome)
    setting.world.lifetime_s = 3600
    assert isinstance(house.hello(others, token=token_of(setting)), Welcome)
    error = put_out(house, keys).error
    assert error is not None
    assert error.code == "login_required"
    house.serve_hub()
    assert not any(isinstance(each, hub.RevokeKey) and each.key == others.public for each in house.heard)


def test_another_persons_token_is_refused_by_a_key_in_use(house: House, setting: Setting) -> None:
    keys = new_key_pair()
    assert isinstance(house.hello(keys, token=token_of(setting)), Welcome)
    eve = setting.world.add_person("eve@lab.example")
    token = setting.world.token_for(eve, setting.native, setting.scope).value
    assert refused(house, token, keys).code == "conflict"


def test_a_replayed_token_counts_against_its_owner(new_house: NewHouse, setting: Setting) -> None:
    house = new_house(sessions_per_identity=2)
    token = token_of(setting)
    assert isinstance(house.hello(new_key_pair(), token=token), Welcome)
    assert isinstance(house.hello(new_key_pair(), token=token), Welcome)
    assert refused(house, token).code == "overloaded"


def test_policies_must_be_answered_for_and_met(new_house: NewHouse, setting: Setting) -> None:
    policy = setting.world.add_policy(Policy("11111111-2222-3333-4444-555555555555", "two factors", required_mfa=True))
    house = new_house(required_policies=[policy.id])
    error = refused(house, token_of(setting))
    assert error.code == "login_required"
    assert error.detail["authorization_parameters"]["session_required_policies"] == [policy.id]
    token = setting.world.token_for(setting.person, setting.native, setting.scope, mfa=True).value
    assert isinstance(house.hello(new_key_pair(), token=token), Welcome)
    setting.globus.faults.drop(INTROSPECT, f"policy_evaluations.{policy.id}")
    error = refused(house, setting.world.token_for(setting.person, setting.native, setting.scope, mfa=True).value)
    assert error.code == "unauthenticated"
    assert policy.id in error.message


def test_the_login_counts_and_not_what_is_linked(new_house: NewHouse, setting: Setting) -> None:
    house = new_house(domains=["facility.example"])
    staff = setting.world.add_person("ada@facility.example")
    setting.world.link(setting.person, staff)
    error = refused(house, token_of(setting))
    assert error.detail["authorization_parameters"]["session_required_single_domain"] == ["facility.example"]
    token = setting.world.token_for(staff, setting.native, setting.scope).value
    assert house.hello(new_key_pair(), token=token).identity == "ada@facility.example"


def test_groups(new_house: NewHouse, setting: Setting) -> None:
    house = new_house(groups=[setting.group.id])
    assert isinstance(house.hello(new_key_pair(), token=token_of(setting)), Welcome)
    eve = setting.world.add_person("eve@lab.example")
    token = setting.world.token_for(eve, setting.native, setting.scope).value
    assert "join one, then log in anew: hpcserve login --force" in refused(house, token).message
    setting.group.members[eve.id] = "member"
    assert refused(house, token).code == "permission_denied", "by what was asked a moment ago"
    anew = setting.world.token_for(eve, setting.native, setting.scope).value
    assert isinstance(house.hello(new_key_pair(), token=anew), Welcome)


def test_groups_are_asked_for_only_while_a_rule_names_one(new_house: NewHouse, setting: Setting) -> None:
    house, keys = new_house(deployers="*"), new_key_pair()
    assert isinstance(house.hello(keys, token=token_of(setting)), Welcome)
    assert house.heard[-1].identity.groups is None
    assert GROUPS not in setting.globus.faults.asked
    assert house.hub is not None
    house.hub.send_multipart([b"admission", encode(hub.GroupsCount(True))])

    def told() -> list[tuple[str, ...] | None]:
        house.serve_hub()
        heard = [each.identity for each in house.heard if isinstance(each, hub.AdmitKey)]
        return [each.groups for each in heard if each is not None]

    until(lambda: told()[-1] == (setting.group.id,), "a servable is visible to a group: who is in is asked about")
    assert told() == [None, (setting.group.id,)]
    assert GROUPS in setting.globus.faults.asked
    house.hub.send_multipart([b"admission", encode(hub.GroupsCount(False))])
    asked = setting.globus.faults.asked[GROUPS]
    assert isinstance(house.hello(new_key_pair(), token=token_of(setting)), Welcome)
    assert setting.globus.faults.asked[GROUPS] == asked, "no more"


def test_without_the_group_service_nobody_new_gets_in_where_a_group_is_demanded(
    new_house: NewHouse, setting: Setting
) -> None:
    strict, lenient = new_house(groups=[setting.group.id]), new_house()
    setting.globus.faults.add(GROUPS, 503, times=None)
    token = token_of(setting)
    error = refused(strict, token)
    assert (error.code, error.retry_after_ms) == ("unavailable", 10_000)
    assert isinstance(lenient.hello(new_key_pair(), token=token), Welcome)
    assert lenient.heard[0].identity.groups is None, "unknown, which is not the same as none"


def test_a_consent_that_is_missing_is_asked_for(house: House, setting: Setting) -> None:
    token = token_of(setting)
    setting.world.consents = [each for each in setting.world.consents if len(each.way) < 2]
    error = refused(house, token)
    assert error.code == "login_required"
    (scope,) = error.detail["authorization_parameters"]["required_scopes"]
    assert scope.startswith(f"{setting.scope}[")


def test_when_auth_is_down_those_who_are_in_stay_for_a_while_and_others_are_told(
    house: House, setting: Setting
) -> None:
    keys, token = new_key_pair(), token_of(setting)
    assert isinstance(house.hello(keys, token=token), Welcome)
    setting.globus.faults.add(".* /v2/oauth2", 503, times=None)
    error = refused(house, token_of(setting))
    assert (error.code, error.retry_after_ms) == ("unavailable", 2000)
    assert "Globus Auth" in error.message
    error = put_out(house, keys).error
    assert error is not None
    assert error.code == "unavailable"
    setting.globus.faults.clear()
    until(lambda: isinstance(house.hello(keys, token=token), Welcome), "it comes back")


def test_a_page_in_place_of_an_answer_says_nothing_about_tokens(house: House, setting: Setting) -> None:
    setting.globus.faults.add(INTROSPECT, 200, body="<html>Down for maintenance</html>", times=None)
    assert refused(house, token_of(setting)).code == "unavailable"


def test_a_hiccup_of_auth_is_not_noticed(house: House, setting: Setting) -> None:
    setting.globus.faults.add(INTROSPECT, 503, times=1, retry_after_s=0)
    assert isinstance(house.hello(new_key_pair(), token=token_of(setting)), Welcome)


def test_an_auth_that_hangs_is_told_within_seconds(house: House, setting: Setting) -> None:
    setting.globus.faults.stall(INTROSPECT, 60.0, times=None)
    assert refused(house, token_of(setting)).code == "unavailable"


def test_a_thousand_clients_at_once_cost_one_question(new_house: NewHouse, setting: Setting) -> None:
    house, token, began = new_house(cache_s=60.0), token_of(setting), time.monotonic()
    clients = [house.connect(new_key_pair()) for _ in range(1000)]
    hello = encode(Hello((1,), "test", token))
    for client in clients:
        client.send(hello)
    for client in clients:
        while isinstance(answer := house.answer(client, within_s=60.0), Refused):  # our broker is slow
            assert answer.error.retry_after_ms
            client.send(hello)
        assert isinstance(answer, Welcome)
    assert setting.globus.faults.asked[INTROSPECT] <= 1 + (time.monotonic() - began) / (RENEW * 60.0)


def test_the_secret_must_be_ours_alone(new_house: NewHouse) -> None:
    house = new_house()
    secret = house.state / "keys" / "globus.secret"
    spoils: list[tuple[Callable[[], None], str]] = [
        (lambda: secret.chmod(0o640), "chmod 600"),
        (secret.unlink, "client_secret_file"),
    ]
    for spoil, told in spoils:
        house.process.terminate()
        house.process.communicate()
        spoil()
        assert told in house.start()["error"]["message"]


def test_nobody_is_let_in_by_an_auth_whose_certificate_is_not_looked_at(new_house: NewHouse) -> None:
    house = new_house()
    house.process.terminate()
    house.process.communicate()
    for value in ("false", "0"):
        house.environment["GLOBUS_SDK_VERIFY_SSL"] = value
        assert "GLOBUS_SDK_VERIFY_SSL" in house.start()["error"]["message"]
        house.process.communicate()


def test_a_restarted_admission_puts_out_those_who_do_not_come_again(house: House, setting: Setting) -> None:
    keys, others, token = new_key_pair(), new_key_pair(), token_of(setting)
    assert isinstance(house.hello(keys, token=token), Welcome)
    assert isinstance(house.hello(others, token=token), Welcome)
    house.process.kill()
    house.process.communicate()
    house.start()
    assert isinstance(house.hello(keys, token=token), Welcome)
    error = put_out(house, others).error
    assert error is not None
    assert error.code == "unavailable", "its client says HELLO again, and resumes"


def test_the_account_of_the_site_comes_with_the_identity(new_house: NewHouse, setting: Setting, tmp_path: Path) -> None:
    mapping = tmp_path / "accounts.json"
    rule = {"source": "{username}", "match": r"(.*)@lab\.example", "output": "{0}"}
    mapping.write_text(json.dumps({"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}))
    house = new_house(accounts=str(mapping))
    assert isinstance(house.hello(new_key_pair(), token=token_of(setting)), Welcome)
    (admit,) = house.heard
    assert admit.identity.account == "ada"
    assert json.loads((house.state / "audit" / "admission.jsonl").read_text())["account"] == "ada"


def test_whose_a_wrong_secret_is_to_mend_is_told(house: House, setting: Setting) -> None:
    setting.world.clients[setting.service.id].secret = "a new one, which the daemon does not have"
    answer = house.hello(new_key_pair(), token=token_of(setting))
    assert isinstance(answer, Refused)
    assert answer.error.code == "unavailable"
    assert "does not know this service any more (HTTP 401)" in answer.error.message
    assert "operator" in answer.error.message
    assert "try again" not in answer.error.message
