from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.errors import ManifestError
from hpcserve.registry.content import digest_of, entries, read_blocks


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.bin").write_bytes(bytes(range(256)) * 10_000)
    (root / "run.sh").touch(mode=0o755)
    return root


def digest(root: Path) -> str:
    return digest_of(root, entries(root))


def test_the_digest_is_as_documented(tmp_path: Path) -> None:
    root = tmp_path / "t"
    root.mkdir()
    (root / "b").write_text("xy")
    (root / "a.sh").touch(mode=0o700)
    (root / "c").symlink_to("b")

    def length(number: int) -> bytes:
        return number.to_bytes(8, "big")

    content = b"X" + length(4) + b"a.sh" + length(0)
    content += b"F" + length(1) + b"b" + length(2) + b"xy"
    content += b"L" + length(1) + b"c" + length(1) + b"b"
    assert digest(root) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "a.txt").write_text("b"),
        lambda root: (root / "a.txt").write_text("aa"),
        lambda root: (root / "a.txt").rename(root / "c.txt"),
        lambda root: (root / "a.txt").chmod(0o755),
        lambda root: (root / "run.sh").chmod(0o644),
        lambda root: (root / "new").touch(),
        lambda root: (root / "link").symlink_to("a.txt"),
        lambda root: (root / "sub" / "b.bin").unlink(),
    ],
)
def test_what_counts_changes_the_digest(tree: Path, change: Callable[[Path], object]) -> None:
    before = digest(tree)
    change(tree)
    assert digest(tree) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "__pycache__").mkdir(),
        lambda root: ((root / "sub" / "__pycache__").mkdir(), (root / "sub" / "__pycache__" / "x").touch()),
        lambda root: (root / ".git").mkdir(),
        lambda root: (root / ".DS_Store").touch(),
        lambda root: (root / "empty").mkdir(),
        lambda root: os.utime(root / "a.txt", (1, 1)),
        lambda root: (root / "a.txt").chmod(0o600),
        lambda root: os.mkfifo(root / ".fifo"),
    ],
)
def test_what_does_not_count_does_not(tree: Path, change: Callable[[Path], object]) -> None:
    before = digest(tree)
    change(tree)
    assert digest(tree) == before


def test_a_link_inside_is_kept_as_one(tree: Path) -> None:
    (tree / "sub" / "up").symlink_to(tree / "a.txt")
    (tree / "dir").symlink_to("sub")
    (tree / "chain").symlink_to("dir/b.bin")
    (tree / "self").symlink_to(".")
    links = {entry.relative: entry.target for entry in entries(tree) if entry.target is not None}
    assert links == {"sub/up": "../a.txt", "dir": "sub", "chain": "sub/b.bin", "self": "."}
    before = digest(tree)
    moved = tree.with_name("moved")
    shutil.move(tree, moved)
    (moved / "sub" / "up").unlink()
    (moved / "sub" / "up").symlink_to("../a.txt")
    assert digest(moved) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../outside", "is a link to .*/outside, outside the servable's directory"),
        ("/etc", "is a link to /etc, outside the servable's directory"),
        ("nowhere", "is a link that leads nowhere"),
        ("link", "is a link that leads nowhere"),
        (".hidden", "is a link to .hidden, which is not published"),
    ],
)
def test_links_that_may_not_be(tree: Path, target: str, message: str) -> None:
    tree.with_name("outside").touch()
    (tree / ".hidden").touch()
    (tree / "link").symlink_to(target)
    with pytest.raises(ManifestError, match=message):
        entries(tree)


def test_special_files_are_refused(tree: Path) -> None:
    os.mkfifo(tree / "sub" / "fifo")
    with pytest.raises(ManifestError, match="sub/fifo is a socket, a FIFO or a device"):
        entries(tree)


def test_sockets_are_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        with pytest.raises(ManifestError, match="sock is a socket"):
            entries(tree)


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (lambda path: path.write_text("longer"), "a.txt changed while it was read"),
        (lambda path: path.write_text(""), "a.txt changed while it was read"),
        (lambda path: path.unlink(), "cannot read .*a.txt: No such file"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "cannot read .*a.txt: Too many levels"),
        (to_fifo, "a.txt is not a regular file any more"),
    ],
)
def test_a_file_that_changes_meanwhile(tree: Path, swap: Callable[[Path], object], message: str) -> None:
    entry = next(one for one in entries(tree) if one.relative == "a.txt")
    swap(tree / "a.txt")
    with pytest.raises(ManifestError, match=message):
        read_blocks(tree, entry)


names = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8), max_size=4)


@given(names)
def test_the_order_of_the_directory_does_not_matter(tmp_path_factory: pytest.TempPathFactory, found: list[str]) -> None:
    chosen = {name for name in found if name not in {".", ".."} and len(name.encode()) < 200}
    first, second = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    for name in sorted(chosen):
        (first / name).write_text(name)
    for name in sorted(chosen, reverse=True):
        (second / name).write_text(name)
    assert digest(first) == digest(second)


def test_names_and_contents_do_not_run_together(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for root, files in ((one, {"a": "bc"}), (other, {"ab": "c"})):
        root.mkdir()
        for name, text in files.items():
            (root / name).write_text(text)
    assert digest(one) != digest(other)
