"""Transfer of the stand-in answers in the shape of Globus's own recorded answers; and the comparison can fail.

The recorded collection is one of before 2020. What is newer is taken from the Transfer API's reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import globus_sdk
import pytest

from hpcserve.testing.globus.collections import Kind
from tests.integration.globus.shapes import differences, examples, mutations
from tests.integration.globus.transfers import Transfers

ID = "11111111-2222-3333-4444-555555555555"
NEWER = {
    "gcs_manager_url": "https://localhost/",
    "high_assurance": False,
    "https_server": "https://localhost/",
    "mapped_collection_id": None,
    "owner_id": ID,
    "owner_string": "ada@lab.example",
    "tlsftp_server": None,
    "expire_time": None,
}
PERSONAL = {"gcp_connected": True, "gcp_paused": False, "https_server": None, "gcs_manager_url": None}
GUEST = {"host_endpoint_id": ID, "host_path": "/somewhere", "mapped_collection_id": ID}


def collections() -> list[Any]:
    [recorded] = examples("transfer.get_endpoint")
    return [recorded | NEWER, recorded | NEWER | PERSONAL, recorded | NEWER | GUEST]


def sent(transfers: Transfers) -> str:
    transfers.write("a")
    return transfers.send(("/a", "/b"), verify_checksum=True)


def listed(transfers: Transfers) -> Any:
    transfers.ended(sent(transfers))
    return transfers.client().task_list().data


def guest(transfers: Transfers) -> Any:
    host, globus = transfers.facility, transfers.setting.globus
    made = globus.add_collection("shared", transfers.setting.person, Kind.GUEST, root=host.root / "s", host=host.id)
    return transfers.client().get_endpoint(made.id).data


def deleted(transfers: Transfers) -> Any:
    transfers.write("a")
    data = globus_sdk.DeleteData(transfers.facility.id)
    data.add_item("/a")
    return transfers.client().submit_delete(data).data


def cancelled(transfers: Transfers) -> Any:
    transfers.laptop.trouble.stalled = True
    return transfers.client().cancel_task(sent(transfers)).data


def refused(ask: Callable[[], object]) -> Any:
    with pytest.raises(globus_sdk.TransferAPIError) as caught:
        ask()
    return caught.value.raw_json


def looked(transfers: Transfers, path: str) -> Any:
    transfers.write("a")
    return transfers.client().operation_stat(transfers.facility.id, path).data


CASES: dict[str, tuple[Callable[[Transfers], Any], Callable[[], list[Any]]]] = {
    "collection, mapped": (lambda t: t.client().get_endpoint(t.facility.id).data, collections),
    "collection, personal": (lambda t: t.client().get_endpoint(t.laptop.id).data, collections),
    "collection, guest": (guest, collections),
    "submission id": (
        lambda t: t.client().get_submission_id().data,
        lambda: examples("transfer.get_submission_id"),
    ),
    "transfer": (
        lambda t: t.client().submit_transfer(t.data(("/a", "/b"))).data,
        lambda: examples("transfer.submit_transfer"),
    ),
    "no items": (
        lambda t: refused(lambda: t.client().submit_transfer(t.data())),
        lambda: examples("transfer.submit_transfer:failure"),
    ),
    "delete": (deleted, lambda: examples("transfer.submit_delete")),
    "tasks": (listed, lambda: examples("transfer.task_list")),
    "task": (
        lambda t: t.ended(sent(t)),
        lambda: [task for each in examples("transfer.task_list") for task in each["DATA"]],
    ),
    "cancel": (cancelled, lambda: examples("transfer.cancel_task")),
    "mkdir": (
        lambda t: t.client().operation_mkdir(t.facility.id, "/new").data,
        lambda: examples("transfer.operation_mkdir"),
    ),
    "stat": (lambda t: looked(t, "/a"), lambda: examples("transfer.operation_stat")),
    "stat, not there": (
        lambda t: refused(lambda: looked(t, "/b")),
        lambda: examples("transfer.operation_stat:not_found"),
    ),
    "stat, denied": (
        lambda t: refused(lambda: looked(t, "/../b")),
        lambda: examples("transfer.operation_stat:permission_denied"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_keys_and_types_and_any_other_is_seen(case: str, transfers: Transfers) -> None:
    ask, recorded = CASES[case]
    known = recorded()
    answer = ask(transfers)
    assert differences(answer, known) == []
    mutated = dict(mutations(answer, known))
    assert mutated, "nothing to compare"
    assert [what for what, wrong in mutated.items() if not differences(wrong, known)] == []


def test_codes_are_those_of_recorded_answers(transfers: Transfers) -> None:
    for case, (ask, recorded) in CASES.items():
        known = {each.get("code") for each in recorded() if isinstance(each, dict)}
        if known != {None}:
            assert ask(transfers)["code"] in known, case
            transfers.laptop.trouble.stalled = False


def test_what_moved_has_the_shape_of_what_a_manager_sees(transfers: Transfers) -> None:
    task = sent(transfers)
    transfers.ended(task)
    known = examples("transfer.endpoint_manager_task_successful_transfers")
    page = transfers.client().task_successful_transfers(task).data
    assert differences({**page, "next_marker": 1}, known) == []
    assert page["next_marker"] is None
    assert [(each["source_path"], each["destination_path"]) for each in page["DATA"]] == [("/a", "/b")]
