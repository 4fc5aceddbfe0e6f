"""What can go wrong with a transfer, told to the stand-in and seen by the real ``TransferClient``."""

from __future__ import annotations

import time
from collections.abc import Callable

import globus_sdk
import pytest
from globus_sdk import gare

from hpcserve.testing.globus.collections import Collection, Kind
from hpcserve.testing.globus.records import GROUPS_VIEW, TRANSFER_ALL
from hpcserve.testing.globus.scopes import parse
from tests.integration.globus.transfers import Transfers

Mishap = Callable[[Transfers], None]


def test_a_wrong_byte_is_found_and_the_file_sent_again(transfers: Transfers) -> None:
    contents = transfers.write("a")
    transfers.laptop.trouble.corrupt = 2
    done = transfers.ended(transfers.send(("/a", "/a"), verify_checksum=True))
    assert (done["status"], done["faults"], done["bytes_transferred"]) == ("SUCCEEDED", 2, 3000)
    assert transfers.codes(done["task_id"]) == ["STARTED", "VERIFY_CHECKSUM", "VERIFY_CHECKSUM", "SUCCEEDED"]
    assert transfers.arrived("a").read_bytes() == contents


def test_wrong_bytes_time_and_again_fail_the_task(transfers: Transfers) -> None:
    transfers.write("a")
    transfers.laptop.trouble.corrupt = -1
    done = transfers.ended(transfers.send(("/a", "/a"), verify_checksum=True))
    assert (done["status"], done["fatal_error"]["code"]) == ("FAILED", "VERIFY_CHECKSUM")
    assert done["faults"] == transfers.setting.globus.transfer.queue.checksum_faults
    assert "/a: it is not what /a is" in done["fatal_error"]["description"]


def test_who_does_not_ask_for_verification_gets_wrong_bytes(transfers: Transfers) -> None:
    contents = transfers.write("a")
    transfers.laptop.trouble.corrupt = -1
    done = transfers.ended(transfers.send(("/a", "/a")))
    assert (done["status"], done["bytes_checksummed"]) == ("SUCCEEDED", 0)
    assert transfers.arrived("a").read_bytes() != contents


def offline(transfers: Transfers) -> None:
    transfers.laptop.trouble.offline = True


def gone(transfers: Transfers) -> None:
    transfers.laptop.trouble.gone = True


def read_only(transfers: Transfers) -> None:
    transfers.laptop.trouble.read_only = True


def full(transfers: Transfers) -> None:
    transfers.laptop.trouble.quota_bytes = 999


def in_the_way(transfers: Transfers) -> None:
    transfers.arrived("a").mkdir()


def missing(transfers: Transfers) -> None:
    (transfers.facility.root / "a").unlink()


def over(transfers: Transfers) -> None:
    trouble = transfers.laptop.trouble
    trouble.offline = trouble.gone = trouble.read_only = False
    trouble.quota_bytes = None
    if transfers.arrived("a").is_dir():
        transfers.arrived("a").rmdir()
    if not (transfers.facility.root / "a").exists():
        transfers.write("a")


@pytest.mark.parametrize(
    ("mishap", "nice", "words"),
    [
        (offline, "GC_NOT_CONNECTED", "laptop: Globus Connect Personal is not connected"),
        (gone, "CONNECT_FAILED", "laptop: nobody answers"),
        (read_only, "PERMISSION_DENIED", "Read-only file system"),
        (full, "QUOTA_EXCEEDED", "quota exceeded"),
        (in_the_way, "ENDPOINT_ERROR", "Is a directory"),
        (missing, "FILE_NOT_FOUND", "No such file"),
    ],
)
def test_a_task_says_what_is_wrong_and_goes_on_when_it_is_over(
    transfers: Transfers, mishap: Mishap, nice: str, words: str
) -> None:
    transfers.write("a")
    mishap(transfers)
    task = transfers.send(("/a", "/a"), verify_checksum=True)
    shown = transfers.until(task, lambda shown: shown["faults"] >= 2)
    assert (shown["status"], shown["nice_status"], shown["is_ok"]) == ("ACTIVE", nice, False)
    assert words.lower() in shown["nice_status_details"].lower()
    assert shown["subtasks_retrying"] > shown["subtasks_pending"] == 0
    assert transfers.client().get_endpoint(transfers.laptop.id)["gcp_connected"] is (mishap is not offline)
    over(transfers)
    assert transfers.ended(task)["status"] == "SUCCEEDED"
    assert transfers.arrived("a").read_bytes() == (transfers.facility.root / "a").read_bytes()


def test_a_laptop_that_closes_in_the_middle(transfers: Transfers) -> None:
    contents = transfers.write("a", 4 << 20)
    transfers.laptop.trouble.bytes_per_s = 1 << 10
    task = transfers.send(("/a", "/a"), verify_checksum=True)
    transfers.until(task, lambda shown: shown["bytes_transferred"])
    transfers.laptop.trouble.offline = True
    transfers.until(task, lambda shown: shown["nice_status"] == "GC_NOT_CONNECTED")
    assert transfers.arrived("a").stat().st_size < 4 << 20
    transfers.laptop.trouble.offline, transfers.laptop.trouble.bytes_per_s = False, None
    assert transfers.ended(task)["status"] == "SUCCEEDED"
    assert transfers.arrived("a").read_bytes() == contents


def test_a_full_destination_fails_the_task_where_asked(transfers: Transfers) -> None:
    transfers.write("a")
    transfers.write("b", 10)
    transfers.laptop.trouble.quota_bytes = 999
    done = transfers.ended(transfers.send(("/b", "/b"), ("/a", "/a"), fail_on_quota_errors=True))
    assert (done["status"], done["fatal_error"]["code"]) == ("FAILED", "QUOTA_EXCEEDED")
    assert (done["files_transferred"], done["subtasks_failed"]) == (1, 2)


def test_files_that_are_not_there_are_skipped_where_asked(transfers: Transfers) -> None:
    transfers.write("b")
    done = transfers.ended(transfers.send(("/a", "/a"), ("/b", "/b"), skip_source_errors=True))
    assert (done["status"], done["files_transferred"], done["subtasks_skipped_errors"]) == ("SUCCEEDED", 1, 1)


def test_a_task_that_is_told_to_fail(transfers: Transfers) -> None:
    transfers.write("a")
    transfers.facility.trouble.fatal = "ENDPOINT_ERROR"
    done = transfers.ended(transfers.send(("/a", "/a")))
    assert (done["status"], done["fatal_error"]["code"], done["nice_status"]) == ("FAILED", "ENDPOINT_ERROR", None)
    assert transfers.client().task_wait(done["task_id"], timeout=60, polling_interval=1)  # It says so of FAILED too.


def test_a_stalled_task_says_that_all_is_well(transfers: Transfers) -> None:
    transfers.write("a")
    transfers.laptop.trouble.stalled = True
    task = transfers.send(("/a", "/a"))
    shown = transfers.until(task, lambda shown: shown["nice_status"] == "OK")
    assert (shown["bytes_transferred"], shown["is_ok"], shown["faults"]) == (0, True, 0)
    transfers.laptop.trouble.stalled = False
    assert transfers.ended(task)["status"] == "SUCCEEDED"


def test_expired_credentials_wait_for_a_login(transfers: Transfers) -> None:
    transfers.write("a")
    before = transfers.client()
    transfers.facility.trouble.expired = True
    task = transfers.send(("/a", "/a"))
    deadline = time.monotonic() + 60
    while (shown := before.get_task(task).data)["status"] != "INACTIVE":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert (shown["nice_status"], shown["is_ok"], shown["completion_time"]) == (None, None, None)
    assert "log in again" in shown["nice_status_details"]
    assert before.task_wait(task, timeout=60, polling_interval=1)  # It says so of INACTIVE too.
    with pytest.raises(globus_sdk.TransferAPIError, match="LoginFailed"):
        before.operation_ls(transfers.facility.id)
    assert before.get_task(task)["status"] == "INACTIVE"
    assert transfers.ended(task)["status"] == "SUCCEEDED"  # This one comes with a new token.
    assert transfers.codes(task) == ["STARTED", "AUTH", "SUCCEEDED"]


@pytest.mark.parametrize("status", [429, 502, 503])
def test_calls_that_are_refused_now_and_then(transfers: Transfers, status: int) -> None:
    contents = transfers.write("a")
    faults = transfers.setting.globus.faults
    for call in ("GET /v0.10/submission_id", "POST /v0.10/transfer", "GET /v0.10/task/"):
        faults.add(call, status, times=1, retry_after_s=0 if status == 429 else None)
    done = transfers.ended(transfers.send(("/a", "/a"), verify_checksum=True))
    assert done["status"] == "SUCCEEDED"
    assert transfers.arrived("a").read_bytes() == contents
    assert len(list(transfers.client().task_list())) == 1


def test_a_submission_whose_answer_is_lost_is_not_made_twice(transfers: Transfers) -> None:
    transfers.write("a")
    submit = "POST /v0.10/transfer"
    transfers.setting.globus.faults.add(submit, 502, times=2, after=True)
    done = transfers.ended(transfers.send(("/a", "/a")))
    assert transfers.setting.globus.faults.asked[submit] == 3
    assert [each["task_id"] for each in transfers.client().task_list()] == [done["task_id"]]


def test_a_consent_is_asked_for_and_given(transfers: Transfers) -> None:
    transfers.write("a")
    setting = transfers.setting
    setting.world.withdraw(setting.person.id)
    client = transfers.client()
    needed = [f"{TRANSFER_ALL}[*{transfers.facility.data_access}]"]
    asked: list[Callable[[], object]] = [
        lambda: client.operation_ls(transfers.facility.id),
        lambda: client.operation_stat(transfers.facility.id, "/a"),
        lambda: client.operation_mkdir(transfers.facility.id, "/b"),
        lambda: client.submit_transfer(transfers.data(("/a", "/a"))),
    ]
    for ask in asked:
        with pytest.raises(globus_sdk.TransferAPIError) as caught:
            ask()
        assert (caught.value.http_status, caught.value.code) == (403, "ConsentRequired")
        assert caught.value.info.consent_required.required_scopes == needed
    client.operation_ls(transfers.laptop.id)  # A guest's or a laptop's collection asks for none.
    setting.world.consent(setting.person.id, setting.native.id, parse(needed[0]))
    assert client.operation_ls(transfers.facility.id)["length"] == 1


def test_a_login_gives_the_consent_that_was_asked_for(transfers: Transfers) -> None:
    transfers.write("a")
    setting = transfers.setting
    setting.world.withdraw(setting.person.id)
    tokens = setting.tokens(f"{TRANSFER_ALL}[*{transfers.facility.data_access}]").by_resource_server
    authorizer = globus_sdk.AccessTokenAuthorizer(tokens["transfer.api.globus.org"]["access_token"])
    assert globus_sdk.TransferClient(authorizer=authorizer).operation_ls(transfers.facility.id)["length"] == 1


def test_a_service_acts_for_its_user_with_a_dependent_token(transfers: Transfers) -> None:
    """The consent has to be given on the whole way: the service, Transfer, the collection."""
    transfers.write("a")
    setting = transfers.setting
    setting.world.withdraw(setting.person.id)

    def of_the_service() -> globus_sdk.TransferClient:
        scope = f"{setting.scope}[{TRANSFER_ALL}{data_access}]"
        token = setting.tokens(scope).by_resource_server[setting.service.id]["access_token"]
        dependent = setting.confidential().oauth2_get_dependent_tokens(token).by_resource_server
        authorizer = globus_sdk.AccessTokenAuthorizer(dependent["transfer.api.globus.org"]["access_token"])
        return globus_sdk.TransferClient(authorizer=authorizer)

    transfers.consent(transfers.facility)  # For the login program itself: no help here.
    data_access = ""
    with pytest.raises(globus_sdk.TransferAPIError, match="ConsentRequired"):
        of_the_service().operation_ls(transfers.facility.id)
    data_access = f"[*{transfers.facility.data_access}]"
    client = of_the_service()
    task = client.submit_transfer(transfers.data(("/a", "/a")))["task_id"]
    assert transfers.ended(task)["owner_id"] == setting.person.id


def test_consents_and_logins_that_a_collection_is_told_to_ask_for(transfers: Transfers) -> None:
    client, trouble = transfers.client(), transfers.laptop.trouble
    trouble.required_scopes = ["urn:globus:auth:scope:transfer.api.globus.org:all[*something]"]
    with pytest.raises(globus_sdk.TransferAPIError) as caught:
        client.submit_transfer(transfers.data(("/a", "/a")))
    assert caught.value.info.consent_required.required_scopes == trouble.required_scopes
    trouble.authorization_parameters = {"session_required_mfa": True, "session_message": "a second factor, please"}
    with pytest.raises(globus_sdk.TransferAPIError, match="a second factor") as caught:
        client.operation_ls(transfers.laptop.id)
    assert caught.value.info.authorization_parameters.session_required_mfa is True
    assert client.get_endpoint(transfers.laptop.id)["high_assurance"] is True


def test_high_assurance_wants_a_session_of_its_domain_and_takes_no_dependent_token(transfers: Transfers) -> None:
    setting, world = transfers.setting, transfers.setting.world
    other = world.add_person("ada@elsewhere.example")
    world.link(setting.person, other)
    transfers.laptop.domain = "lab.example"
    transfers.write("/a")

    def submit(token: str) -> globus_sdk.GlobusHTTPResponse:
        client = globus_sdk.TransferClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))
        return client.submit_transfer(transfers.data(("/a", "/a")))

    by_service = world.token_for(
        setting.person, setting.native, f"{setting.scope}[{TRANSFER_ALL}[*{transfers.facility.data_access}]]"
    )
    [dependent] = setting.confidential().oauth2_get_dependent_tokens(by_service.value, scope=TRANSFER_ALL).data
    elsewhere = world.token_for(setting.person, setting.native, TRANSFER_ALL, by=other).value
    for token in (dependent["access_token"], elsewhere):
        with pytest.raises(globus_sdk.TransferAPIError) as caught:
            submit(token)
        assert (caught.value.http_status, caught.value.code) == (403, "PermissionDenied")
        wanted = gare.to_gare(caught.value)
        assert wanted is not None
        assert wanted.authorization_parameters.session_required_single_domain == ["lab.example"]
    assert transfers.client().get_endpoint(transfers.laptop.id)["high_assurance"] is True
    task = submit(world.token_for(setting.person, setting.native, TRANSFER_ALL).value)["task_id"]
    assert transfers.ended(task)["status"] == "SUCCEEDED"


def test_tokens_that_do_not_do(transfers: Transfers) -> None:
    setting, world = transfers.setting, transfers.setting.world
    revoked = world.token_for(setting.person, setting.native, TRANSFER_ALL).value
    expired = world.token_for(setting.person, setting.native, TRANSFER_ALL).value
    world.revoke(revoked)
    world.expire(expired)
    other = world.token_for(setting.person, setting.native, GROUPS_VIEW).value
    for token, status, code in (
        ("unheard-of", 401, "AuthenticationFailed"),
        (revoked, 401, "AuthenticationFailed"),
        (expired, 401, "AuthenticationFailed"),
        (other, 403, "PermissionDenied"),
    ):
        client = globus_sdk.TransferClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))
        with pytest.raises(globus_sdk.TransferAPIError) as caught:
            client.task_list()
        assert (caught.value.http_status, caught.value.code) == (status, code)
    with pytest.raises(globus_sdk.TransferAPIError, match="No credentials supplied"):
        globus_sdk.TransferClient().task_list()


def test_nobody_reads_or_writes_where_they_may_not(transfers: Transfers) -> None:
    globus, world = transfers.setting.globus, transfers.setting.world
    transfers.write("a")
    guest = world.add_person("bob@lab.example")
    theirs = globus.add_collection("bob's laptop", guest, Kind.PERSONAL)

    def denied(to: Collection, path: str) -> None:
        task = transfers.send(("/a", path), to=to)
        shown = transfers.until(task, lambda shown: shown["faults"])
        assert (shown["nice_status"], shown["bytes_transferred"]) == ("PERMISSION_DENIED", 0)
        transfers.client().cancel_task(task)

    denied(theirs, "/a")
    denied(transfers.laptop, "/../a")
    (transfers.laptop.root / "out").symlink_to(globus.directory)
    denied(transfers.laptop, "/out/a")
    assert not (globus.directory / "a").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"DATA": [{"source_path": "/a"}]}, "source_path and destination_path"),
        ({"submission_id": 7}, "submission_id is required"),
        ({"sync_level": 9}, "sync_level: expected 0 to 3, got 9"),
        ({"deadline": "tomorrow"}, "deadline: Invalid isoformat"),
        ({"delete_destination_extra": True}, "knows no delete_destination_extra"),
        ({"DATA": [{"source_path": "/a", "destination_path": "/a", "checksum_algorithm": "crc7"}]}, "'crc7'"),
    ],
)
def test_documents_that_make_no_sense(transfers: Transfers, wrong: dict[str, object], words: str) -> None:
    client = transfers.client()
    document = {**transfers.data(("/a", "/a")), "submission_id": client.get_submission_id()["value"], **wrong}
    with pytest.raises(globus_sdk.TransferAPIError) as caught:
        client.post("/v0.10/transfer", data={key: value for key, value in document.items() if _is_sent(value)})
    assert words in str(caught.value.message)
    assert list(client.task_list()) == []


def _is_sent(value: object) -> bool:
    return value is not globus_sdk.MISSING
