"""Where a collection's paths lie, and who may go there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcserve.testing.globus.collections import Caller, Collection, Kind, NotAllowed, Permission, Rule, normal

OWNER = Caller("owner", "ada@uni.edu")
FRIEND = Caller("friend", "bob@lab.gov", frozenset({"friend", "friend-at-home"}), frozenset({"club"}))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/"),
        ("/", "/"),
        ("/~/", "/"),
        ("~", "/"),
        ("/~/a/b", "/a/b"),
        ("a//b/./c/", "/a/b/c"),
        ("/..a/b..", "/..a/b.."),
        ("/a b/é", "/a b/é"),
    ],
)
def test_paths_begin_at_the_top(path: str, expected: str) -> None:
    assert normal(path) == expected


@pytest.mark.parametrize("path", ["..", "/../etc/passwd", "/a/../../etc", "/~/../x", "a/..", "/a\0b"])
def test_a_path_that_goes_up_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(NotAllowed, match="not allowed"):
        Collection(tmp_path, "owner").allow(OWNER, path, "r")


def test_a_link_out_of_the_collection_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    (root / "back").symlink_to(root / "in")
    collection = Collection(root, "owner")
    assert collection.allow(OWNER, "/back/file", "rw").path == root / "in" / "file"
    for path in ("/out", "/out/x"):
        with pytest.raises(NotAllowed):
            collection.allow(OWNER, path, "r")


def may(collection: Collection, caller: Caller, path: str, permission: Permission) -> bool:
    try:
        collection.allow(caller, path, permission)
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "users", "allowed"),
    [
        (Kind.MAPPED, None, True),
        (Kind.MAPPED, frozenset({"friend-at-home"}), True),
        (Kind.MAPPED, frozenset({"somebody"}), False),
        (Kind.PERSONAL, None, False),
        (Kind.GUEST, None, False),
    ],
)
def test_whose_a_collection_is(tmp_path: Path, kind: Kind, users: frozenset[str] | None, *, allowed: bool) -> None:
    collection = Collection(tmp_path, "owner", kind, users=users)
    assert may(collection, OWNER, "/x", "rw")
    assert may(collection, FRIEND, "/x", "r") is allowed
    assert collection.sees(FRIEND) is allowed


@pytest.mark.parametrize(
    ("principal_type", "principal", "permissions", "reads", "writes"),
    [
        ("identity", "friend", "r", True, False),
        ("identity", "friend-at-home", "rw", True, True),
        ("identity", "owner", "rw", False, False),
        ("group", "club", "rw", True, True),
        ("group", "friend", "rw", False, False),
        ("all_authenticated_users", "", "r", True, False),
        ("anonymous", "", "rw", False, False),
    ],
)
def test_rules_of_a_guest_collection(
    tmp_path: Path, principal_type: str, principal: str, permissions: Permission, *, reads: bool, writes: bool
) -> None:
    rule = Rule("1", principal_type, principal, "/shared/", permissions)
    collection = Collection(tmp_path, "owner", Kind.GUEST, rules={"1": rule})
    assert may(collection, FRIEND, "/shared/a", "r") is reads
    assert may(collection, FRIEND, "/shared", "r") is reads
    assert may(collection, FRIEND, "/shared/a", "rw") is writes
    assert collection.sees(FRIEND) is reads
    for elsewhere in ("/", "/other", "/shared-too/a"):
        assert not may(collection, FRIEND, elsewhere, "r")


def test_a_read_only_collection_is_read_only_for_its_owner_too(tmp_path: Path) -> None:
    collection = Collection(tmp_path, "owner")
    collection.trouble.read_only = True
    assert may(collection, OWNER, "/x", "r")
    assert not may(collection, OWNER, "/x", "rw")


def test_a_quota_counts_all_but_what_is_replaced(tmp_path: Path) -> None:
    collection = Collection(tmp_path, "owner")
    assert collection.room_bytes(tmp_path / "a") is None
    collection.trouble.quota_bytes = 100
    (tmp_path / "a").write_bytes(b"1" * 30)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "b").write_bytes(b"1" * 50)
    assert collection.room_bytes(tmp_path / "new") == 20
    assert collection.room_bytes(tmp_path / "a") == 50


def test_so_many_files_are_spoilt_and_no_more(tmp_path: Path) -> None:
    collection, file = Collection(tmp_path, "owner"), tmp_path / "a"
    file.write_bytes(b"12345")
    collection.spoil(file)
    assert file.read_bytes() == b"12345"
    collection.trouble.corrupt = 1
    collection.spoil(file)
    spoilt = file.read_bytes()
    assert sum(a != b for a, b in zip(spoilt, b"12345", strict=True)) == 1
    collection.spoil(file)
    assert file.read_bytes() == spoilt
