"""Which paths a caller's words may lead to: by tables, and by what hypothesis thinks of."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.core.sitepaths import (
    Collection,
    Located,
    caller_directory,
    check_below,
    globus_uri,
    is_below,
    located,
    of_word,
    roots_of,
)
from hpcserve.errors import HpcserveError, InvalidInput, PermissionDenied

SCRATCH = Collection("00000000-0000-0000-0000-000000000001", "/scratch", "mapped")
SHARED = Collection("00000000-0000-0000-0000-000000000002", "/scratch/shared", "guest", https=True)
ROOT = Collection("00000000-0000-0000-0000-000000000003", "/", "personal")


@pytest.mark.parametrize(
    ("uri", "path", "dataset"),
    [
        ("file:/data/x.h5#/images", "/data/x.h5", "/images"),
        ("file:///data//x.h5#/a/b", "/data/x.h5", "/a/b"),
        ("file://localhost/data/x.npy", "/data/x.npy", ""),
        ("file:/data/a%20b%23.h5#/%C3%A4", "/data/a b#.h5", "/ä"),
        (f"globus://{SCRATCH.id}/run/x.h5#/y", "/scratch/run/x.h5", "/y"),
        (f"globus://{SHARED.id}/x.npy", "/scratch/shared/x.npy", ""),
        (f"globus://{ROOT.id}/etc/x.npy", "/etc/x.npy", ""),
    ],
)
def test_a_reference_is_a_path_of_the_site(uri: str, path: str, dataset: str) -> None:
    found = located(uri, (SCRATCH, SHARED, ROOT))
    assert found == Located(path, dataset)
    assert of_word(found.uri) == found


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("file:x.h5", "is relative"),
        ("file:/data/../etc/passwd", "goes up by"),
        ("file:/data/%2e%2e/etc/passwd", "goes up by"),
        ("file://elsewhere/data/x.h5", "expected file:/PATH"),
        ("http://host/x.h5", "expected file:/PATH"),
        ("/data/x.h5", "expected file:/PATH"),
        ("file:/data/x.h5?y", "written %3F"),
        ("file:/data/x%00.h5", "NUL"),
        ("globus://unknown/x", "no such collection on this site"),
        (f"globus://{SCRATCH.id}/../../etc/passwd", "goes up by"),
        (f"globus://{SCRATCH.id}/%2e%2e/secret", "goes up by"),
        ("file://[/x", "reference"),
        ("file:/" + "x" * 5000, "longer than"),
        ("file:/a\nb.npy", "control character"),
        (f"globus://{SCRATCH.id}/a\tb.npy", "control character"),
    ],
)
def test_what_leads_elsewhere_is_refused(uri: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        located(uri, (SCRATCH, SHARED))


@given(st.text(max_size=60))
def test_whatever_is_written_no_path_leaves_a_collection(text: str) -> None:
    try:
        path = located(f"globus://{SCRATCH.id}/{text}", (SCRATCH,)).path
    except HpcserveError:
        return
    assert is_below(path, "/scratch")
    assert posixpath.normpath(path) == path


@given(st.text(max_size=30), st.text(max_size=30))
def test_callers_have_directories_of_their_own(one: str, other: str) -> None:
    for name in (one, other):
        directory = caller_directory(name)
        assert directory
        assert "/" not in directory
        assert not directory.startswith(".")
        assert directory.isascii()
    assert (caller_directory(one) == caller_directory(other)) == (one == other)


def test_the_directory_of_a_user_name_reads_as_the_name() -> None:
    assert caller_directory("ada@uni.edu") == "ada@uni.edu"
    assert caller_directory("..") != ".."
    assert "/" not in caller_directory("../ada")


def test_a_path_below_a_root_is_allowed_and_one_beside_it_is_not() -> None:
    check_below("/data/run/x", ("/data",), "x")
    check_below("/anything", ("/",), "x")
    with pytest.raises(PermissionDenied, match="/database is outside of what you may name here"):
        check_below("/database", ("/data",), "x")


def test_in_mode_service_a_caller_names_what_is_its_own_alone() -> None:
    mine = roots_of("ada", "/staged", ("/data",), service=True)
    assert mine == ("/staged/ada",)
    with pytest.raises(PermissionDenied):
        check_below("/staged/adam/x.h5", mine, "x")
    assert roots_of("ada", "/staged", ("/data",), service=False) == ("/data", "/staged")


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/scratch/run/x.h5", f"globus://{SCRATCH.id}/run/x.h5"),
        ("/scratch/shared/x.h5", f"globus://{SHARED.id}/x.h5"),
        ("/scratch/a b", f"globus://{SCRATCH.id}/a%20b"),
        ("/home/x", None),
    ],
)
def test_a_path_is_on_the_nearest_collection(path: str, uri: str | None) -> None:
    assert globus_uri(path, (SCRATCH, SHARED)) == uri
    if uri is not None:
        assert located(uri, (SCRATCH, SHARED)).path == path
