"""Where a result is to go, by the caller's words."""

from __future__ import annotations

from typing import Any

import pytest

from hpcserve.core.delivery import End
from hpcserve.core.destinations import covers, destination, unfit, uri_of
from hpcserve.errors import InvalidInput

ID = "1c9d3f0e-8d2b-4c53-9f7e-2f1f6e0d0a11"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        (f"globus://{ID}/data/", "/data/r.h5"),
        (f"globus://{ID}/data/mine.h5", "/data/mine.h5"),
        (f"globus://{ID}", "/r.h5"),
        (f"globus://{ID}/~/", "/~/r.h5"),
        (f"globus://{ID}/a%20b/%23/", "/a b/#/r.h5"),
        (f"globus://{ID}/" + "a" * 255, "/" + "a" * 255),
    ],
)
def test_a_directory_keeps_the_name_and_a_file_has_its_own(uri: str, path: str) -> None:
    end = destination(uri, "r.h5")
    assert end == End(ID, path)
    assert destination(uri_of(end), "other") == end


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/home/ann/",
        "globus:///data/",
        "globus://laptop/data/",
        f"https://{ID}/data/",
        f"globus://{ID}/a/../b/",
        f"globus://{ID}/a/%2e%2e/b/",
        f"globus://{ID}/a?b",
        f"globus://{ID}/a#b",
        f"globus://{ID}/a%00b",
        f"globus://{ID}/a%0ab",
        f"globus://{ID}/a\nb/",
        f"globus://{ID}/a\tb/",
        f"\x01globus://{ID}/a/",
        f"globus://{ID}/" + "a" * 5000,
        f"globus://{ID}/" + "a" * 256 + "/",
        f"globus://{ID}/" + "%C3%A9" * 128 + "/",
        f"globus://{ID}/a/.",
        f"globus://{ID}/a//b/",
        "globus://[/",
        3,
    ],
)
def test_what_is_no_destination_is_said(uri: Any) -> None:
    with pytest.raises(InvalidInput, match="to="):
        destination(uri, "r.h5")


@pytest.mark.parametrize(
    ("path", "found", "words"),
    [
        ("/in", "dir", f"let it end with a slash: globus://{ID}/in/"),
        ("/~", "dir", "let it end with a slash"),
        ("/in/", "file", "a file is there"),
        ("/in/", "dir", ""),
        ("", "dir", ""),
        ("/in/r.h5", "file", ""),
        ("/in/", "", ""),
        ("/in", "", ""),
        ("/dev/null", "chr", ""),
    ],
)
def test_a_place_where_something_else_is_does_not_do(path: str, found: str, words: str) -> None:
    why = unfit(f"globus://{ID}{path}", found)
    assert words in why if words else not why


@pytest.mark.parametrize(
    ("named", "file", "path"),
    [
        ("/~/", "/staged/fold-1.h5", "/~/fold-1.h5"),
        ("/~/a%20b/", "/staged/fold-1.h5", "/~/a b/fold-1.h5"),
        ("/in/r.h5", "/staged/fold-1.h5", "/in/r.h5"),
        ("/in/r", "/staged/fold-1.h5", "/in/r"),
        ("", "/staged/fold-1.h5", "/fold-1.h5"),
    ],
)
def test_who_names_a_place_means_the_result_there(named: str, file: str, path: str) -> None:
    assert covers(f"globus://{ID}{named}", file, End(ID, path))


@pytest.mark.parametrize(
    ("named", "file", "path"),
    [
        ("/~/r.h5", "/staged/.bashrc", "/~/.bashrc"),
        ("/~/r.h5", "/staged/fold-1.h5", "/~/fold-1.h5"),
        ("/~/r.h5", "/staged/r.h5", "/~/r.h5/r.h5"),
        ("/~/", "/staged/.bashrc", "/~/.bashrc"),
        ("/~/", "/staged/.r.h5", "/~/.r.h5"),
        ("/~/", "/staged/profile", "/~/profile"),
        ("/~/", "/staged/fold-1.h5", "/~/fold-2.h5"),
        ("/~/", "/staged/authorized_keys", "/~/.ssh/authorized_keys"),
        ("/~/", "/staged/fold-1.h5", "/~/.ssh/fold-1.h5"),
        ("/~/", "/staged/fold-1.h5", "/fold-1.h5"),
        ("/", "/staged/fold-1.h5", "/etc/fold-1.h5"),
    ],
)
def test_who_names_a_place_means_nothing_else(named: str, file: str, path: str) -> None:
    assert not covers(f"globus://{ID}{named}", file, End(ID, path))


def test_another_collection_was_not_named() -> None:
    other = ID.replace(ID[0], "0" if ID[0] != "0" else "1")
    assert not covers(f"globus://{ID}/in/", "/staged/r.h5", End(other, "/in/r.h5"))
