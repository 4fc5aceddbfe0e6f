"""Key files: made once, read back, refused when broken or open to others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from hpcserve.auth.keys import KeyPair, from_z85, load, load_or_create, new_key_pair, to_z85
from hpcserve.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "some.key"


def test_a_key_is_made_once_and_read_back(place: Path) -> None:
    made = load_or_create(place)
    assert load_or_create(place) == made == load(place)
    assert place.stat().st_mode & 0o777 == 0o600
    assert zmq.curve_public(made.secret_z85.encode()) == made.public_z85.encode()


def test_the_directory_of_a_key_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    load_or_create(tmp_path / "new" / "some.key")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_the_secret_is_not_in_the_representation() -> None:
    pair = new_key_pair()
    assert repr(pair.secret) not in repr(pair)
    assert pair.secret_z85 not in repr(pair)


def test_processes_that_make_a_key_at_once_all_get_the_same(place: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from hpcserve.auth.keys import load_or_create;"
        "print('up', flush=True); sys.stdin.read(); print(load_or_create(Path(sys.argv[1])).public_z85)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    told = {process.communicate()[0] for process in processes}
    assert told == {load(place).public_z85 + "\n"}


@given(st.binary(min_size=32, max_size=32))
def test_z85_there_and_back(key: bytes) -> None:
    assert from_z85(to_z85(key)) == key


@pytest.mark.parametrize("text", ["", "short", "a" * 39, "a" * 41, "ä" * 40, "a" * 39 + " ", "a" * 39 + '"', "#" * 40])
def test_what_is_not_z85_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a key in Z85"):
        from_z85(text)


def _file_of(pair: KeyPair) -> str:
    return f"public: {pair.public_z85}\nsecret: {pair.secret_z85}\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not a key file"),
        (f"public: {'a' * 40}\n", "not a key file"),
        ("what is this\n", ":1: expected one"),
        ("# fine\n\npublic: short\n", ":3: not a key in Z85"),
        (_file_of(new_key_pair()) * 2, ":3: expected one"),
        (f"public: {new_key_pair().public_z85}\nsecret: {new_key_pair().secret_z85}\n", "does not belong"),
        ("\udcff", ":1: expected one"),
    ],
    ids=["empty", "half", "other", "short", "twice", "strangers", "binary"],
)
def test_a_broken_file_is_refused(place: Path, content: str, told: str) -> None:
    place.write_bytes(content.encode("utf-8", "surrogateescape"))
    place.chmod(0o600)
    with pytest.raises(ConfigError, match=told):
        load_or_create(place)
    assert place.read_bytes() == content.encode("utf-8", "surrogateescape")


def test_a_key_that_others_may_read_is_refused(place: Path) -> None:
    load_or_create(place)
    place.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_or_create(place)


def test_a_key_in_a_directory_of_everybody_is_refused(place: Path) -> None:
    load_or_create(place)
    place.parent.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        load(place)


def test_comments_are_read_over(place: Path) -> None:
    pair = new_key_pair()
    place.write_text("# mine\n\n" + _file_of(pair))
    place.chmod(0o600)
    assert load(place) == pair
