"""What transfer and delete tasks do when all goes well, asked for by the real ``TransferClient``."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import globus_sdk
import pytest

from hpcserve.testing.globus.collections import Kind
from hpcserve.testing.globus.contents import contents_digest
from tests.integration.globus.transfers import Transfers

Ask = Callable[[], object]


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_file_arrives_and_is_verified(transfers: Transfers, size: int) -> None:
    contents = transfers.write("out/result.h5", size)
    done = transfers.ended(transfers.send(("/out/result.h5", "/in/new/result.h5"), verify_checksum=True))
    assert done["status"] == "SUCCEEDED"
    assert transfers.arrived("in/new/result.h5").read_bytes() == contents
    assert (done["bytes_transferred"], done["bytes_checksummed"]) == (size, size)
    assert (done["files"], done["files_transferred"], done["faults"]) == (1, 1, 0)
    assert transfers.codes(done["task_id"]) == ["STARTED", "SUCCEEDED"]


def test_twenty_gigabytes_of_holes_arrive(transfers: Transfers) -> None:
    source = transfers.facility.root / "huge"
    with open(source, "wb") as file:
        file.write(b"begin")
        file.seek(20 * 10**9 - 3)
        file.write(b"end")
    done = transfers.ended(transfers.send(("/huge", "/huge"), verify_checksum=True))
    assert (done["status"], done["bytes_transferred"]) == ("SUCCEEDED", 20 * 10**9)
    assert contents_digest(transfers.arrived("huge")) == contents_digest(source)
    assert transfers.arrived("huge").stat().st_blocks * 512 < 10**6


def test_many_files_are_one_task(transfers: Transfers) -> None:
    names = [f"/{n}" for n in range(20)]
    contents = [transfers.write(name) for name in names]
    done = transfers.ended(transfers.send(*((name, f"/in{name}") for name in names)))
    assert (done["status"], done["files_transferred"], done["subtasks_succeeded"]) == ("SUCCEEDED", 20, 21)
    assert [transfers.arrived(f"in{name}").read_bytes() for name in names] == contents
    moved = transfers.client().task_successful_transfers(done["task_id"])
    assert [each["destination_path"] for each in moved] == [f"/in{name}" for name in names]


def test_a_directory_arrives_with_all_below_it_but_links(transfers: Transfers) -> None:
    transfers.write("d/a")
    transfers.write("d/e/b")
    (transfers.facility.root / "d/f").mkdir()
    (transfers.facility.root / "d/link").symlink_to("a")
    done = transfers.ended(transfers.send(("/d/", "/in/"), recursive=True))
    assert (done["status"], done["files"], done["directories"], done["symlinks"]) == ("SUCCEEDED", 2, 3, 1)
    found = sorted(str(path.relative_to(transfers.arrived("in"))) for path in transfers.arrived("in").rglob("*"))
    assert found == ["a", "e", "e/b", "f"]


def test_progress_is_seen_on_the_way(transfers: Transfers) -> None:
    transfers.write("a", 8 << 20)
    transfers.laptop.trouble.bytes_per_s = 1 << 10
    task = transfers.send(("/a", "/a"), label="slow")
    seen = transfers.until(task, lambda shown: shown["bytes_transferred"] > 0)
    assert (seen["status"], seen["is_ok"], seen["nice_status"], seen["label"]) == ("ACTIVE", True, "OK", "slow")
    assert seen["bytes_transferred"] < 8 << 20
    assert seen["effective_bytes_per_second"] > 0
    transfers.laptop.trouble.bytes_per_s = None
    assert transfers.ended(task)["bytes_transferred"] == 8 << 20


def test_the_same_submission_is_one_task(transfers: Transfers) -> None:
    transfers.write("a")
    data, client = transfers.data(("/a", "/a")), transfers.client()
    data["submission_id"] = client.get_submission_id()["value"]
    first = client.submit_transfer(data)
    transfers.ended(first["task_id"])
    transfers.arrived("a").unlink()
    again = client.submit_transfer(data)
    assert (first["code"], again["code"]) == ("Accepted", "Duplicate")
    assert first["task_id"] == again["task_id"]
    assert len(list(client.task_list())) == 1
    assert not transfers.arrived("a").exists()


def test_a_submission_id_that_is_old_or_of_another_is_refused(transfers: Transfers) -> None:
    world, client = transfers.setting.world, transfers.client()
    data = transfers.data(("/a", "/a"))
    stranger = transfers.client(world.add_person("bob@lab.example"))
    data["submission_id"] = stranger.get_submission_id()["value"]
    with pytest.raises(globus_sdk.TransferAPIError, match="is no submission id"):
        client.submit_transfer(data)
    data["submission_id"] = client.get_submission_id()["value"]
    world.ahead_s += transfers.setting.globus.transfer.queue.submission_s + 1
    with pytest.raises(globus_sdk.TransferAPIError, match="has expired"):
        client.submit_transfer(data)


@pytest.mark.parametrize(
    ("level", "change", "skipped"),
    [
        ("exists", "other", True),
        ("size", "other", True),
        ("size", "longer", False),
        ("mtime", "newer", True),
        ("mtime", "older", False),
        ("checksum", "other", False),
        ("checksum", "none", True),
        (None, "none", False),
    ],
)
def test_what_is_there_already_is_skipped(
    transfers: Transfers, level: str | None, change: str, *, skipped: bool
) -> None:
    contents, there = transfers.write("a", 100), transfers.arrived("a")
    there.write_bytes({"other": b"x" * 100, "longer": b"x" * 101}.get(change, contents))
    if change in ("newer", "older"):
        at = (transfers.facility.root / "a").stat().st_mtime + (10 if change == "newer" else -10)
        os.utime(there, (at, at))
    before = there.stat().st_mtime_ns
    options = {} if level is None else {"sync_level": level}
    done = transfers.ended(transfers.send(("/a", "/a"), **options))
    assert (done["status"], done["files_skipped"]) == ("SUCCEEDED", int(skipped))
    assert (there.stat().st_mtime_ns == before) is skipped


def test_times_are_kept_where_asked(transfers: Transfers) -> None:
    transfers.write("a")
    os.utime(transfers.facility.root / "a", (1_000_000_000, 1_000_000_000))
    transfers.ended(transfers.send(("/a", "/kept"), preserve_timestamp=True))
    transfers.ended(transfers.send(("/a", "/new")))
    assert transfers.arrived("kept").stat().st_mtime == 1_000_000_000
    assert transfers.arrived("new").stat().st_mtime > 1_500_000_000


def test_a_checksum_of_ones_own(transfers: Transfers) -> None:
    expected = hashlib.sha256(transfers.write("a")).hexdigest()
    own = {"checksum_algorithm": "SHA256"}
    done = transfers.ended(transfers.send(("/a", "/a"), external_checksum=expected, **own))
    assert (done["status"], done["bytes_checksummed"]) == ("SUCCEEDED", 1000)
    other = transfers.ended(transfers.send(("/a", "/b"), external_checksum="0" * 64, **own))
    assert (other["status"], other["fatal_error"]["code"]) == ("FAILED", "VERIFY_CHECKSUM")
    assert expected in other["fatal_error"]["description"]


def test_a_deadline_ends_what_is_left(transfers: Transfers) -> None:
    transfers.write("a")
    transfers.laptop.trouble.offline = True
    in_an_hour = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    task = transfers.send(("/a", "/a"), deadline=in_an_hour)
    shown = transfers.until(task, lambda shown: shown["faults"])
    assert dt.datetime.fromisoformat(shown["deadline"]) == in_an_hour.replace(microsecond=0)
    transfers.setting.world.ahead_s += 3601
    done = transfers.ended(task)
    assert (done["status"], done["subtasks_expired"], done["fatal_error"]) == ("FAILED", 1, None)
    assert transfers.codes(task)[-1] == "EXPIRED"
    with pytest.raises(globus_sdk.TransferAPIError, match="has passed"):
        transfers.send(("/a", "/a"), deadline=in_an_hour)


def test_a_task_is_cancelled_once(transfers: Transfers) -> None:
    transfers.write("a", 8 << 20)
    transfers.laptop.trouble.bytes_per_s = 1 << 10
    task, client = transfers.send(("/a", "/a")), transfers.client()
    transfers.until(task, lambda shown: shown["bytes_transferred"])
    assert client.cancel_task(task)["code"] == "Canceled"
    done = client.get_task(task)
    assert (done["status"], done["subtasks_canceled"]) == ("FAILED", 2)
    assert client.cancel_task(task)["code"] == "TaskComplete"


def test_more_tasks_than_may_run_wait_in_order(transfers: Transfers) -> None:
    transfers.write("a")
    transfers.laptop.trouble.stalled = True
    tasks = [transfers.send(("/a", f"/{n}")) for n in range(5)]
    for task in tasks[:3]:
        transfers.until(task, lambda shown: shown["nice_status"] == "OK")
    client = transfers.client()
    assert [client.get_task(task)["nice_status"] for task in tasks] == ["OK"] * 3 + ["Queued"] * 2
    client.cancel_task(tasks[0])
    transfers.until(tasks[3], lambda shown: shown["nice_status"] == "OK")
    assert client.get_task(tasks[4])["nice_status"] == "Queued"
    transfers.laptop.trouble.stalled = False
    assert [transfers.ended(task)["status"] for task in tasks] == ["FAILED"] + ["SUCCEEDED"] * 4


def test_so_many_tasks_and_no_more(transfers: Transfers) -> None:
    transfers.write("a")
    transfers.laptop.trouble.stalled = True
    transfers.setting.globus.transfer.queue.pending_per_owner = 1
    transfers.send(("/a", "/a"))
    with pytest.raises(globus_sdk.TransferAPIError, match="TooManyPendingJobs"):
        transfers.send(("/a", "/b"))


def test_files_and_directories_are_deleted(transfers: Transfers) -> None:
    transfers.write("d/e/a")
    transfers.write("b")
    data = globus_sdk.DeleteData(transfers.facility.id, recursive=True)
    data.add_item("/d")
    data.add_item("/b")
    done = transfers.ended(transfers.client().submit_delete(data)["task_id"])
    assert (done["status"], done["type"], done["destination_endpoint_id"]) == ("SUCCEEDED", "DELETE", None)
    assert list(transfers.facility.root.iterdir()) == []


def test_tasks_are_listed_to_their_owner(transfers: Transfers) -> None:
    transfers.write("a")
    tasks = [transfers.send(("/a", f"/{n}"), label=f"n{n}") for n in range(3)]
    for task in tasks:
        transfers.ended(task)
    client = transfers.client()
    assert [each["task_id"] for each in client.task_list()] == tasks[::-1]
    assert [each["label"] for each in client.task_list(limit=1, offset=1)] == ["n1"]
    assert list(client.task_list(filter="status:ACTIVE,INACTIVE")) == []
    assert [each["task_id"] for each in client.task_list(filter=f"type:TRANSFER/task_id:{tasks[0]}")] == [tasks[0]]
    stranger = transfers.client(transfers.setting.world.add_person("bob@lab.example"))
    assert list(stranger.task_list()) == []
    with pytest.raises(globus_sdk.TransferAPIError, match="PermissionDenied"):
        stranger.get_task(tasks[0])
    with pytest.raises(globus_sdk.TransferAPIError, match=r"ClientError\.NotFound"):
        client.get_task("11111111-2222-3333-4444-555555555555")


def test_a_guest_collection_is_open_to_whom_its_rules_name(transfers: Transfers) -> None:
    globus, world = transfers.setting.globus, transfers.setting.world
    shared = globus.add_collection("shared", transfers.setting.person, Kind.GUEST, root=transfers.facility.root / "s")
    guest = world.add_person("bob@lab.example")
    home = globus.add_collection("home", guest, Kind.PERSONAL)
    owner, theirs = transfers.client(), transfers.client(guest)
    contents = transfers.write("s/for-bob/a")

    rule = {"DATA_TYPE": "access", "principal_type": "identity", "principal": guest.id, "path": "/for-bob/"}
    assert [each["id"] for each in theirs.endpoint_search("shared")] == []
    made = owner.add_endpoint_acl_rule(shared.id, {**rule, "permissions": "r"})
    assert (made["code"], made.http_status) == ("Created", 201)
    assert [each["id"] for each in theirs.endpoint_search("shared")] == [shared.id]
    assert [each["principal"] for each in owner.endpoint_acl_list(shared.id)] == [guest.id]
    assert owner.get_endpoint_acl_rule(shared.id, made["access_id"])["permissions"] == "r"

    data = globus_sdk.TransferData(shared.id, home.id)
    data.add_item("/for-bob/a", "/a")
    task = theirs.submit_transfer(data)["task_id"]
    assert theirs.task_wait(task, timeout=60, polling_interval=1)
    assert theirs.get_task(task)["status"] == "SUCCEEDED"
    assert (home.root / "a").read_bytes() == contents
    beyond: list[Ask] = [
        lambda: theirs.operation_ls(shared.id),
        lambda: theirs.operation_mkdir(shared.id, "/for-bob/x"),
    ]
    for refused in beyond:
        with pytest.raises(globus_sdk.TransferAPIError, match="EndpointPermissionDenied"):
            refused()

    with pytest.raises(globus_sdk.TransferAPIError, match="Exists"):
        owner.add_endpoint_acl_rule(shared.id, {**rule, "permissions": "rw"})
    with pytest.raises(globus_sdk.TransferAPIError, match="PermissionDenied"):
        theirs.endpoint_acl_list(shared.id)
    assert owner.delete_endpoint_acl_rule(shared.id, made["access_id"])["code"] == "Deleted"
    with pytest.raises(globus_sdk.TransferAPIError, match="EndpointPermissionDenied"):
        theirs.operation_ls(shared.id, path="/for-bob")
    with pytest.raises(globus_sdk.TransferAPIError, match="AccessRuleNotFound"):
        owner.delete_endpoint_acl_rule(shared.id, made["access_id"])
    with pytest.raises(globus_sdk.TransferAPIError, match="Conflict"):
        owner.endpoint_acl_list(transfers.facility.id)


def test_directories_are_listed_and_made(transfers: Transfers, tmp_path: Path) -> None:
    transfers.write("d/b", 7)
    transfers.write("d/.hidden")
    client, where = transfers.client(), transfers.facility.id
    listed = client.operation_ls(where, path="/d")
    assert [(each["name"], each["type"], each["size"]) for each in listed][-1] == ("b", "file", 7)
    assert (listed["endpoint"], listed["absolute_path"], listed["length"]) == (where, "/d/", 2)
    assert [each["name"] for each in client.operation_ls(where, path="/d", show_hidden=False)] == ["b"]
    client.operation_mkdir(where, "/d/new")
    assert client.operation_stat(where, "/d/new")["type"] == "dir"
    (transfers.facility.root / "out").symlink_to(tmp_path)
    refusals: dict[str, Ask] = {
        "ExternalError.MkdirFailed.Exists": lambda: client.operation_mkdir(where, "/d/new"),
        "ClientError.NotFound": lambda: client.operation_ls(where, path="/nowhere"),
        "ExternalError.DirListingFailed.NotDirectory": lambda: client.operation_ls(where, path="/d/b"),
        "EndpointPermissionDenied": lambda: client.operation_ls(where, path="/out"),
        "EndpointNotFound": lambda: client.operation_ls(transfers.setting.person.id),
    }
    for code, ask in refusals.items():
        with pytest.raises(globus_sdk.TransferAPIError) as caught:
            ask()
        assert caught.value.code == code
