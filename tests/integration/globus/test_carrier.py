"""The daemon's side of transfers against the loopback stand-in, by the real globus_sdk."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from hpcserve.core.delivery import End, Progress
from hpcserve.staging.transfer import GlobusTransfer, StepFailed, label_of
from hpcserve.testing.globus.records import TRANSFER_ALL
from tests.integration.globus.transfers import WITHIN_S, Transfers


def carrier(transfers: Transfers) -> GlobusTransfer:
    token = transfers.setting.world.token_for(transfers.setting.person, transfers.setting.native, TRANSFER_ALL)
    return GlobusTransfer(token.value, deadline_s=3600.0)


def items(transfers: Transfers, *names: str) -> list[tuple[End, End]]:
    return [(End(transfers.facility.id, f"/{name}"), End(transfers.laptop.id, f"/in/{name}")) for name in names]


def until(look: Callable[[], Progress], wanted: Callable[[Progress], bool]) -> Progress:
    deadline = time.monotonic() + WITHIN_S
    while not wanted(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    return seen


def ended(globus: GlobusTransfer, task: str) -> Progress:
    return until(lambda: globus.look(task), lambda seen: seen.status in ("SUCCEEDED", "FAILED"))


def test_files_arrive_verified(transfers: Transfers) -> None:
    contents = [transfers.write(f"/{name}", 3000) for name in ("a", "b")]
    globus = carrier(transfers)
    submission = globus.submission_id()
    task = globus.submit(submission, items(transfers, "a", "b"))
    seen = ended(globus, task)._replace(bytes_per_s=0.0)
    assert seen == Progress("SUCCEEDED", 6000, 2, label=label_of(submission))
    assert [transfers.arrived(f"/in/{name}").read_bytes() for name in ("a", "b")] == contents
    shown = transfers.client().get_task(task)
    assert (shown["verify_checksum"], shown["bytes_checksummed"]) == (True, 6000)


def test_the_same_submission_is_one_task(transfers: Transfers) -> None:
    transfers.write("/a")
    globus = carrier(transfers)
    submission = globus.submission_id()
    first = globus.submit(submission, items(transfers, "a"))
    ended(globus, first)
    assert carrier(transfers).submit(submission, items(transfers, "a")) == first
    assert len(transfers.client().task_list().data["DATA"]) == 1


def test_an_old_id_is_not_used_twice_and_not_taken_for_submitted(transfers: Transfers) -> None:
    globus = carrier(transfers)
    with pytest.raises(StepFailed) as caught:
        globus.submit("00000000-0000-0000-0000-000000000000", items(transfers, "a"))
    assert caught.value.trouble.kind == "stale"


def test_a_task_is_found_by_its_submission_id(transfers: Transfers) -> None:
    transfers.write("/a")
    globus = carrier(transfers)
    submissions = [globus.submission_id() for _ in range(2)]
    found = [globus.submit(each, items(transfers, "a")) for each in submissions]
    assert [globus.find(each) for each in submissions] == found
    assert globus.find(globus.submission_id()) == ""


def test_a_task_has_the_deadline_of_the_site(transfers: Transfers) -> None:
    transfers.write("/a")
    globus = carrier(transfers)
    began = datetime.now(UTC)
    shown = transfers.client().get_task(globus.submit(globus.submission_id(), items(transfers, "a")))
    deadline = datetime.fromisoformat(shown["deadline"])
    left_s = ((deadline if deadline.tzinfo else deadline.replace(tzinfo=UTC)) - began).total_seconds()
    assert 3598.0 <= left_s <= 3600.0 + WITHIN_S


def test_another_complaint_about_the_submission_is_fatal(transfers: Transfers) -> None:
    refusal = {"code": "ClientError.BadRequest", "message": "the submission has too many items"}
    transfers.setting.globus.faults.add("POST /v0.10/transfer", 400, body=refusal)
    globus = carrier(transfers)
    with pytest.raises(StepFailed) as caught:
        globus.submit(globus.submission_id(), items(transfers, "a"))
    assert caught.value.trouble.kind == "fatal"


@pytest.mark.parametrize("status", [429, 502, 503])
@pytest.mark.parametrize(
    ("call", "pattern"),
    [("submission_id", "GET /v0.10/submission_id"), ("submit", "POST /v0.10/transfer"), ("look", "GET /v0.10/task/")],
)
def test_a_busy_globus_is_asked_later(transfers: Transfers, call: str, pattern: str, status: int) -> None:
    transfers.write("/a")
    globus = carrier(transfers)
    submission = globus.submission_id()
    task = globus.submit(submission, items(transfers, "a")) if call == "look" else ""
    transfers.setting.globus.faults.add(pattern, status, retry_after_s=7)
    steps: dict[str, Callable[[], object]] = {
        "submission_id": globus.submission_id,
        "submit": lambda: globus.submit(submission, items(transfers, "a")),
        "look": lambda: globus.look(task),
    }
    with pytest.raises(StepFailed) as caught:
        steps[call]()
    assert (caught.value.trouble.kind, caught.value.trouble.retry_after_s) == ("again", 7.0)
    assert steps[call]()


def test_a_consent_is_asked_for_in_full(transfers: Transfers) -> None:
    transfers.write("/a")
    transfers.laptop.trouble.required_scopes = [f"{TRANSFER_ALL}[*https://auth.globus.org/scopes/x/data_access]"]
    globus = carrier(transfers)
    with pytest.raises(StepFailed) as caught:
        globus.submit(globus.submission_id(), items(transfers, "a"))
    trouble = caught.value.trouble
    assert trouble.kind == "login"
    assert trouble.detail is not None
    wanted = trouble.detail["authorization_parameters"]["required_scopes"]
    assert wanted == transfers.laptop.trouble.required_scopes


def test_an_expired_token_wants_a_login(transfers: Transfers) -> None:
    world = transfers.setting.world
    token = world.token_for(transfers.setting.person, transfers.setting.native, TRANSFER_ALL)
    world.expire(token.value)
    with pytest.raises(StepFailed) as caught:
        GlobusTransfer(token.value, deadline_s=60.0).submission_id()
    assert (caught.value.trouble.kind, "hpcserve transfers --login" in caught.value.trouble.why) == ("login", True)


def test_an_offline_laptop_is_waited_for(transfers: Transfers) -> None:
    transfers.write("/a")
    transfers.laptop.trouble.offline = True
    globus = carrier(transfers)
    task = globus.submit(globus.submission_id(), items(transfers, "a"))
    seen = until(lambda: globus.look(task), lambda seen: bool(seen.fault))
    assert (seen.status, seen.fault) == ("ACTIVE", "GC_NOT_CONNECTED")
    transfers.laptop.trouble.offline = False
    assert ended(globus, task).status == "SUCCEEDED"


def test_expired_credentials_are_told(transfers: Transfers) -> None:
    transfers.write("/a")
    transfers.laptop.trouble.expired = True
    globus = carrier(transfers)
    task = globus.submit(globus.submission_id(), items(transfers, "a"))
    until(lambda: globus.look(task), lambda seen: seen.status == "INACTIVE")
    assert ended(carrier(transfers), task).status == "SUCCEEDED"  # with a token of a later login


def test_a_full_destination_fails_at_once(transfers: Transfers) -> None:
    transfers.write("/a")
    transfers.laptop.trouble.quota_bytes = 10
    globus = carrier(transfers)
    seen = ended(globus, globus.submit(globus.submission_id(), items(transfers, "a")))
    assert (seen.status, seen.fault) == ("FAILED", "QUOTA_EXCEEDED")
    assert seen.details


def test_a_file_that_arrives_otherwise_does_not_count(transfers: Transfers) -> None:
    transfers.write("/a")
    transfers.laptop.trouble.corrupt = -1
    globus = carrier(transfers)
    seen = ended(globus, globus.submit(globus.submission_id(), items(transfers, "a")))
    assert (seen.status, seen.fault) == ("FAILED", "VERIFY_CHECKSUM")


def test_a_read_only_destination_is_told(transfers: Transfers) -> None:
    transfers.write("/a")
    transfers.laptop.trouble.read_only = True
    globus = carrier(transfers)
    task = globus.submit(globus.submission_id(), items(transfers, "a"))
    assert until(lambda: globus.look(task), lambda seen: bool(seen.fault)).fault == "PERMISSION_DENIED"
    globus.cancel(task)
    seen = ended(globus, task)
    assert (seen.status, seen.cancelled) == ("FAILED", True)


def test_a_collection_that_is_not_there_is_fatal(transfers: Transfers) -> None:
    globus = carrier(transfers)
    nowhere = End("5f2a1c1e-0000-4000-8000-000000000000", "/a")
    with pytest.raises(StepFailed) as caught:
        globus.submit(globus.submission_id(), [(nowhere, nowhere)])
    assert caught.value.trouble.kind == "fatal"


def test_nobody_answers(transfers: Transfers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_TRANSFER", "https://127.0.0.1:1/")
    with pytest.raises(StepFailed) as caught:
        carrier(transfers).submission_id()
    assert caught.value.trouble.kind == "again"
