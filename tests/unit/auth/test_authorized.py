"""``authorized_keys``: its lines, its changes, its additions."""

from __future__ import annotations

import os
from multiprocessing import get_context
from pathlib import Path

import pytest

from hpcserve.auth.authorized import AuthorizedKeys, authorize, parse
from hpcserve.auth.keys import to_z85
from hpcserve.errors import ConfigError

ADA, BEN = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "authorized_keys"


def test_lines_comments_and_blanks() -> None:
    text = f"# who may\n\nada {to_z85(ADA)}\n  ben\t{to_z85(BEN)}  \nada {to_z85(ADA)}\n"
    assert parse(text.encode(), "FILE") == {ADA: "ada", BEN: "ben"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ada", "FILE:2: expected 'NAME KEY', got 1 words"),
        (f"ada lovelace {to_z85(ADA)}", "FILE:2: expected 'NAME KEY', got 3 words"),
        ("ada nokey", "FILE:2: not a key in Z85"),
        (f"a\x01da {to_z85(ADA)}", "FILE:2: expected"),
        (f"{'a' * 200} {to_z85(ADA)}", "FILE:2: expected"),
        (f"ben {to_z85(ADA)}", "FILE:2: this key is already that of 'ada'"),
    ],
)
def test_a_wrong_line_is_named(line: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(f"ada {to_z85(ADA)}\n{line}\n".encode(), "FILE")


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="FILE: not UTF-8"):
        parse(b"ada \xff\n", "FILE")


def test_without_a_file_nobody_is_known(file: Path) -> None:
    assert AuthorizedKeys(file).lookup(ADA) is None


def test_a_key_is_known_as_soon_as_it_is_added_and_until_it_is_removed(file: Path) -> None:
    keys = AuthorizedKeys(file)
    assert authorize(file, "ada", ADA) == "ada"
    assert keys.lookup(ADA) == "ada"
    authorize(file, "ben", BEN)
    assert keys.refresh()
    assert not keys.refresh()
    assert [keys.lookup(ADA), keys.lookup(BEN)] == ["ada", "ben"]
    file.unlink()
    assert keys.lookup(ADA) is None


def test_adding_twice_changes_nothing(file: Path) -> None:
    authorize(file, "ada", ADA)
    before = file.read_bytes()
    assert authorize(file, "ada", ADA) == "ada"
    assert authorize(file, "somebody", ADA) == "ada"
    assert file.read_bytes() == before


def test_a_line_without_an_end_is_not_glued_to_the_next(file: Path) -> None:
    file.write_text(f"ada {to_z85(ADA)}")
    authorize(file, "ben", BEN)
    assert parse(file.read_bytes(), "FILE") == {ADA: "ada", BEN: "ben"}


@pytest.mark.parametrize("name", ["", "two words", "#ada", "new\nline"])
def test_a_name_that_would_break_the_file_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        authorize(file, name, ADA)
    assert not file.exists()


def test_a_broken_change_keeps_the_keys_and_is_logged(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    authorize(file, "ada", ADA)
    keys = AuthorizedKeys(file)
    file.write_text("nonsense\n")
    assert keys.lookup(ADA) == "ada"
    assert f"{file}:1: expected" in caplog.text


def test_a_broken_file_at_the_start_is_an_error(file: Path) -> None:
    file.write_text("nonsense\n")
    with pytest.raises(ConfigError, match=":1: expected"):
        AuthorizedKeys(file)


def test_a_file_that_others_may_write_is_refused(file: Path) -> None:
    authorize(file, "ada", ADA)
    file.chmod(0o666)
    with pytest.raises(ConfigError, match="others may write"):
        AuthorizedKeys(file)


def _add(file: str, number: int) -> None:
    authorize(Path(file), f"user{number}", bytes([number] * 32))


def test_additions_at_once_are_all_kept(file: Path) -> None:
    with get_context("spawn").Pool(4) as pool:
        pool.starmap(_add, [(os.fspath(file), number) for number in range(16)])
    assert sorted(parse(file.read_bytes(), "FILE").values()) == sorted(f"user{number}" for number in range(16))
