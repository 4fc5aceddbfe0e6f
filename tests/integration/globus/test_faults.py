"""What the stand-in is told to do wrong, as the real globus_sdk meets it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import globus_sdk
import pytest
from globus_sdk.transport import RetryConfig

from hpcserve.testing.globus.records import GROUPS_VIEW
from tests.integration.globus.setting import SECRET, Setting

INTROSPECT = "POST /v2/oauth2/token/introspect"


def client(setting: Setting, **settings: int) -> globus_sdk.ConfidentialAppAuthClient:
    retry = RetryConfig(backoff=lambda context: context.backoff or 0.0)
    retry.max_retries = settings.get("retries", 5)
    return globus_sdk.ConfidentialAppAuthClient(setting.service.id, SECRET, retry_config=retry)


@pytest.mark.parametrize("status", [429, 502, 503])
def test_the_sdk_tries_again_after_what_passes(status: int, setting: Setting) -> None:
    token = setting.token()
    setting.globus.faults.add(INTROSPECT, status, times=2)
    assert client(setting).oauth2_token_introspect(token)["active"]
    assert setting.globus.faults.asked[INTROSPECT] == 3


def test_the_sdk_waits_as_long_as_it_is_told(setting: Setting) -> None:
    token = setting.token()
    setting.globus.faults.add(INTROSPECT, 429, retry_after_s=1)
    began = time.monotonic()
    assert client(setting).oauth2_token_introspect(token)["active"]
    assert time.monotonic() - began >= 1


def test_a_lasting_fault_reaches_the_caller_until_it_is_cleared(setting: Setting) -> None:
    token = setting.token()
    setting.globus.faults.add("POST /v2/oauth2/", 503, times=None)
    with pytest.raises(globus_sdk.GlobusAPIError) as refused:
        client(setting, retries=2).oauth2_token_introspect(token)
    assert refused.value.http_status == 503
    assert setting.globus.faults.asked[INTROSPECT] == 3
    setting.globus.faults.clear()
    assert client(setting).oauth2_token_introspect(token)["active"]


def test_a_stalled_answer_comes_when_it_is_cleared_and_holds_up_nobody_else(setting: Setting) -> None:
    token = setting.token()
    setting.globus.faults.stall(INTROSPECT, 600)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client(setting).oauth2_token_introspect, token)
        until = time.monotonic() + 60
        while not setting.globus.faults.asked[INTROSPECT] and time.monotonic() < until:
            time.sleep(0.01)
        assert client(setting).oauth2_token_introspect(token)["active"]
        assert not waiting.done()
        setting.globus.faults.clear()
        assert waiting.result(60)["active"]


def test_who_waits_too_short_gives_up(setting: Setting) -> None:
    impatient = client(setting, retries=0)
    impatient.transport.http_timeout = 0.2
    setting.globus.faults.stall(INTROSPECT, 600)
    with pytest.raises(globus_sdk.GlobusTimeoutError):
        impatient.oauth2_token_introspect("x")


def test_a_key_is_left_out_of_an_answer(setting: Setting) -> None:
    token = setting.token()
    setting.globus.faults.drop(INTROSPECT, "aud", "session_info.authentications", times=1)
    told = client(setting).oauth2_token_introspect(token, include="session_info").data
    assert "aud" not in told
    assert told["session_info"].keys() == {"session_id"}
    assert client(setting).oauth2_token_introspect(token)["aud"]


def test_groups_may_be_down_alone(setting: Setting) -> None:
    setting.globus.faults.add(".* /v2/groups/", 503, times=None)
    token = setting.world.token_for(setting.person, setting.native, GROUPS_VIEW).value
    retry = RetryConfig(backoff=lambda context: context.backoff or 0.0)
    groups = globus_sdk.GroupsClient(authorizer=globus_sdk.AccessTokenAuthorizer(token), retry_config=retry)
    with pytest.raises(globus_sdk.GroupsAPIError):
        groups.get_my_groups()
    assert client(setting).oauth2_token_introspect(token)["active"]


def test_nobody_trusts_the_stand_in_who_was_not_given_its_certificate(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOBUS_SDK_VERIFY_SSL")
    with pytest.raises(globus_sdk.NetworkError) as refused:
        client(setting, retries=0).oauth2_token_introspect("x")
    assert "CERTIFICATE_VERIFY_FAILED" in str(refused.value.underlying_exception)


def test_many_at_once_are_all_answered(setting: Setting) -> None:
    tokens = [setting.world.token_for(setting.person, setting.native, setting.scope).value for _ in range(64)]
    local = threading.local()

    def active(token: str) -> bool:
        if not hasattr(local, "client"):
            local.client = client(setting)
        return bool(local.client.oauth2_token_introspect(token)["active"])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(active, tokens, timeout=60))
    assert setting.globus.faults.asked[INTROSPECT] == 64
